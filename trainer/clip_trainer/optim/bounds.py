"""Bounds on the update: gradient norm and temperature."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MAX_LOGIT_SCALE = math.log(100)
"""The CLIP paper keeps the logits from being scaled by more than 100 (section 2.5)."""


def clip_gradient_norm(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients so that their joint L2 norm is at most `max_norm`.

    Args:
        parameters: those without a gradient are skipped.
        max_norm: None leaves the gradients alone.

    Returns:
        The norm before clipping, a 0-d tensor (not synchronised with the host).
    """
    bound = math.inf if max_norm is None else max_norm
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if math.isfinite(bound):
        torch.nn.utils.clip_grads_with_norm_(with_gradient, bound, norm)
    return norm


@torch.no_grad()
def clamp_logit_scale(model: nn.Module) -> None:
    """Keep the log temperature `model.logit_scale` within 0 and ln 100; call it after each optimiser step."""
    logit_scale = model.get_parameter("logit_scale")
    logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
