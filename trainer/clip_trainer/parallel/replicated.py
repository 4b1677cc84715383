"""Every rank has all of the model; gradients are summed after the backward pass, in buckets."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from clip_trainer.model import ClipModel
from clip_trainer.optim import clip_gradient_norm
from clip_trainer.train.group import Group


class Replicated:
    """Data parallel training. See `strategy.Parallel` for the methods.

    Args:
        group: the ranks; it may change at any time between two steps.
    """

    equal_pieces = False

    def __init__(self, group: Group) -> None:
        self._group = group

    def adopt(self, model: ClipModel) -> None:
        """Nothing to do: the model stays as it is."""

    def release(self) -> None:
        """Nothing to do: the group is the same object for ever."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `Group.sum_gradients`."""
        self._group.sum_gradients(parameters)

    def clip_gradient_norm(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
        """Every rank has the whole gradient, so it needs no other."""
        return clip_gradient_norm(parameters, max_norm)

    def computing(self) -> AbstractContextManager[object]:
        """Collectives say by themselves that they wait."""
        return nullcontext()

    def whole(self, model: ClipModel) -> AbstractContextManager[None]:
        """Nothing to do: it is whole."""
        return nullcontext()
