"""AdamW (arXiv 1711.05101) with OpenCLIP's defaults and decay split."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import nn

from clip_trainer.optim.groups import parameter_groups

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
    """Decoupled decay of the matrices (see `groups.decays`)."""


def adamw_defaults(model_name: str, lr: float, weight_decay: float = 0.2) -> AdamWConfig:
    """OpenCLIP's defaults, which depend on whether the model's name contains "vit" (the CLIP paper's table 20)."""
    if "vit" in model_name.lower():
        return AdamWConfig(lr, beta1=0.9, beta2=0.98, eps=1e-6, weight_decay=weight_decay)
    return AdamWConfig(lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=weight_decay)


class _EagerAdamW(torch.optim.AdamW):
    """torch's AdamW without the wrappers that import `torch._dynamo` on first use.

    They keep the compiler out of the optimiser, which nobody compiles here, and the import costs over 5 CPU-seconds
    (torch 2.15): at every start of a worker, and so in every recovery. `unwrap` gives back what torch wrote.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def build_adamw(model: nn.Module, config: AdamWConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `model`, one fused kernel per group where torch has one.

    Parameter groups carry the parameter names (`names`), so that optimiser state can be stored by name.
    """
    groups = parameter_groups(model, config.weight_decay)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = devices <= _FUSED_DEVICES
    return _EagerAdamW(
        [dict(group) for group in groups],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=fused,
        foreach=None if not fused else False,
    )
