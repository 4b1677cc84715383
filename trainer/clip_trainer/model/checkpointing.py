"""Activation checkpointing: recompute a block's activations in the backward pass in place of storing them.

Chen et al. 2016, arXiv 1604.06174. Gradients are the same; batch normalisation needs care, because a second forward
pass would move its running statistics a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, *args: Any, enabled: bool = True, **kwargs: Any) -> Any:
    """`module(*args, **kwargs)`, storing only the arguments for the backward pass.

    Args:
        module: the block; random numbers it draws (dropout) are drawn again in the same way.
        args: positional arguments.
        enabled: False calls the block plainly. It is also called plainly when no gradients are wanted.
        kwargs: keyword arguments.
    """
    if not (enabled and torch.is_grad_enabled()):
        return module(*args, **kwargs)
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return checkpoint(module, *args, use_reentrant=False, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _untracked(norms)

    return checkpoint(module, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _untracked(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch normalisation as usual, but without moving its running statistics.

    Not by `track_running_stats = False`: the statistics would then not be saved for the backward pass, and the
    recomputation has to save what the first pass saved.
    """
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


def hold_statistics_in_backward(module: nn.Module) -> None:
    """Let batch normalisations below `module` not move their statistics when they run inside a backward pass.

    For networks whose own library recomputes them: there is no place for `recompute` then.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and not any(isinstance(h, _Hold) for h in norm._forward_pre_hooks.values()):
            hold = _Hold()
            norm.register_forward_pre_hook(hold)
            # Always: a recomputation ends by an exception as soon as it has what it needs.
            norm.register_forward_hook(hold.release, always_call=True)


class _Hold:
    """A pre-hook that stops one batch normalisation's statistics inside a backward pass, until `release`."""

    def __init__(self) -> None:
        self._held: tuple[float | None, Tensor | None] | None = None

    def __call__(self, norm: nn.Module, inputs: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        if torch._C._current_graph_task_id() != -1:
            self._held = (norm.momentum, norm.num_batches_tracked)
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def release(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        if self._held is not None:
            norm.momentum, norm.num_batches_tracked = self._held
            self._held = None
