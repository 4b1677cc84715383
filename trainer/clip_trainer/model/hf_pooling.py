"""From the token states of a Hugging Face model to one vector a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Pooler = Callable[[Any, Tensor], Tensor]
"""Takes a Hugging Face output (with `last_hidden_state` [n, tokens, width]) and the mask [n, tokens], true for text."""


def mean_pooler(output: Any, mask: Tensor) -> Tensor:
    """Mean over the tokens of the text; zeros for a text that is all padding."""
    states: Tensor = output.last_hidden_state
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def max_pooler(output: Any, mask: Tensor) -> Tensor:
    """Maximum over the tokens of the text. (OpenCLIP's raises on every input, and would hide text, not padding.)"""
    states: Tensor = output.last_hidden_state
    return states.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).amax(dim=1)


def cls_pooler(output: Any, mask: Tensor) -> Tensor:
    """The model's own pooled output (BERT's dense layer and tanh) where it has one, else the state of token 0."""
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    return cls_last_hidden_state_pooler(output, mask) if pooled is None else pooled


def cls_last_hidden_state_pooler(output: Any, mask: Tensor) -> Tensor:
    """The state of token 0."""
    states: Tensor = output.last_hidden_state
    return states[:, 0]


POOLERS: dict[str, Pooler] = {
    pooler.__name__: pooler for pooler in (mean_pooler, max_pooler, cls_pooler, cls_last_hidden_state_pooler)
}
"""By the name `text_cfg.hf_pooler_type` has."""
