"""AdamW (arXiv 1711.05101) with OpenCLIP's defaults and decay split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clip_trainer.optim.eager import eager
from clip_trainer.optim.groups import GroupRules, ParameterGroup, parameter_groups

_FUSED_DEVICES = frozenset({"cpu", "cuda"})


@dataclass(frozen=True)
class AdamWConfig:
    """Hyperparameters of AdamW."""

    lr: float
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the gradient average."""
    beta2: float = 0.98
    """Decay of the squared-gradient average."""
    eps: float = 1e-6
    """Added to the denominator."""
    weight_decay: float = 0.2
    """Decoupled decay of the matrices (see `decay.decayed_names`)."""


def adamw_defaults(model_name: str, lr: float, weight_decay: float = 0.2) -> AdamWConfig:
    """OpenCLIP's defaults, which depend on whether the model's name contains "vit" (the CLIP paper's table 20)."""
    if "vit" in model_name.lower():
        return AdamWConfig(lr, beta1=0.9, beta2=0.98, eps=1e-6, weight_decay=weight_decay)
    return AdamWConfig(lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=weight_decay)


def build_adamw(model: nn.Module, config: AdamWConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of `model`, one fused kernel per group where torch has one.

    Parameter groups carry the parameter names (`names`), so that optimiser state can be stored by name.
    """
    groups = parameter_groups(model, GroupRules(config.weight_decay))
    return adamw(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


def adamw(groups: Sequence[ParameterGroup], **arguments: Any) -> torch.optim.Optimizer:
    """AdamW over the given groups; `arguments` go to torch's class."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if "fused" not in arguments and "foreach" not in arguments and devices <= _FUSED_DEVICES:
        arguments |= {"fused": True, "foreach": False}
    return eager(torch.optim.AdamW)([dict(group) for group in groups], **arguments)
