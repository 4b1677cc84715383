"""Activation checkpointing: recompute a block's activations in the backward pass in place of storing them.

Chen et al. 2016, arXiv 1604.06174. Gradients are the same; batch normalisation needs care, because a second forward
pass would move its running statistics a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
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
    """Batch normalisation as usual, but without moving its running statistics."""
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
