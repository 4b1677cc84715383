"""The seam between a training step and the way ranks share the model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from torch import Tensor, nn

from clip_trainer.model import ClipModel
from clip_trainer.parallel.replicated import Replicated
from clip_trainer.train.group import Group


class Parallel(Protocol):
    """How the ranks of a group share one model."""

    @property
    def equal_pieces(self) -> bool:
        """Whether every rank must put equally many micro-batches through the model, because its forward and backward
        passes are collective.
        """
        ...

    def adopt(self, model: ClipModel) -> None:
        """Take the model, equal on all ranks, for training in the present group. Collective.

        Before the optimiser is built: its parameters may become others.

        Raises:
            SpecError: this kind of model cannot be shared so.
        """
        ...

    def release(self) -> None:
        """Let go of the group, which is over, whatever still refers to the model."""
        ...

    def computing(self) -> AbstractContextManager[object]:
        """Around forward and backward passes: tells the watchdog if they wait for peers throughout."""
        ...

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the gradients those of the global batch, in place. Collective."""
        ...

    def clip_gradient_norm(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
        """`optim.clip_gradient_norm` of the whole gradient, after `sum_gradients`. Collective."""
        ...

    def whole(self, model: ClipModel) -> AbstractContextManager[None]:
        """Inside this context every rank has all weights and may run the model on its own, without a graph, as often as
        it likes: to evaluate. Entering is collective. `state_dict` ends it; for export there is `pieces.whole`.
        """
        ...


def parallel_of(kind: Literal["ddp", "fsdp"], group: Group) -> Parallel:
    """The strategy of `train.parallel`. A single rank has nothing to share, and so never shards.

    Args:
        kind: `train.parallel`.
        group: the ranks, met already if the kind is fsdp.
    """
    if kind == "fsdp" and group.world > 1:
        from clip_trainer.parallel.sharded import Sharded  # imports torch's FSDP and DTensor, seconds of CPU time

        return Sharded(group)
    return Replicated(group)
