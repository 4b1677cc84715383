"""Which parameters decay: OpenCLIP's split."""

from __future__ import annotations

from typing import TypedDict

from torch import nn

_UNDECAYED_NAMES = ("bn", "ln", "bias", "logit_scale")


class ParameterGroup(TypedDict):
    """One group of a torch optimiser."""

    params: list[nn.Parameter]
    names: list[str]
    weight_decay: float


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether OpenCLIP decays this parameter: matrices and embeddings yes; norms, biases and scalars no."""
    return parameter.ndim >= 2 and not any(part in name for part in _UNDECAYED_NAMES)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """The trainable parameters of `model` in two groups: undecayed, decayed (OpenCLIP's order).

    Args:
        model: parameters with `requires_grad` False are left out.
        weight_decay: decay of the second group.
    """
    undecayed = ParameterGroup(params=[], names=[], weight_decay=0.0)
    decayed = ParameterGroup(params=[], names=[], weight_decay=weight_decay)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = decayed if decays(name, parameter) else undecayed
            group["params"].append(parameter)
            group["names"].append(name)
    return [undecayed, decayed]
