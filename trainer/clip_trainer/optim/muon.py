"""Muon (https://kellerjordan.github.io/posts/muon/) for the matrices inside the blocks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from clip_trainer.optim.adamw import adamw
from clip_trainer.optim.eager import eager
from clip_trainer.optim.groups import ParameterGroup

_NOT_HIDDEN = ("embed", "text_projection", "visual.proj", "text.proj", "visual.head", "attn_pool.query", "lm_head")


class Together(torch.optim.Optimizer):
    """Several optimisers with different parameters that act as one.

    Args:
        parts: each with parameters of its own. State and parameter groups are shared with them.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        # Not super().__init__(): it would make groups and state of its own.
        self.parts = list(parts)
        self.defaults: dict[str, Any] = {}
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.state = parts[0].state
        for part in parts[1:]:
            part.state = self.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each part."""
        assert closure is None
        for part in self.parts:
            part.step()


def build_muon(
    groups: Sequence[ParameterGroup], muon: dict[str, Any], fallback: dict[str, Any]
) -> torch.optim.Optimizer:
    """Muon with AdamW for embeddings, projections into the shared space, convolutions, norms and biases.

    Args:
        groups: all parameters; each group is divided in two.
        muon: arguments of torch's Muon. Unless they say otherwise its steps are scaled to the size of AdamW's (arXiv
            2502.16982), so that both can use one learning rate.
        fallback: arguments of AdamW.
    """
    parts = []
    hidden, rest = [_only(group, True) for group in groups], [_only(group, False) for group in groups]
    if any(group["params"] for group in hidden):
        arguments = {"adjust_lr_fn": "match_rms_adamw"} | muon
        parts.append(eager(torch.optim.Muon)([dict(g) for g in hidden if g["params"]], **arguments))
    if any(group["params"] for group in rest):
        parts.append(adamw([group for group in rest if group["params"]], **fallback))
    return Together(parts)


def _only(group: ParameterGroup, hidden: bool) -> ParameterGroup:
    pairs = [(n, p) for n, p in zip(group["names"], group["params"], strict=True) if _is_hidden(n, p) is hidden]
    return ParameterGroup(
        params=[parameter for _, parameter in pairs],
        names=[name for name, _ in pairs],
        weight_decay=group["weight_decay"],
        lr_scale=group["lr_scale"],
    )


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and not any(part in name for part in _NOT_HIDDEN)
