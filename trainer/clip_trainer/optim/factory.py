"""Optimisers by name: AdamW, the others of torch, and those of timm."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from clip_trainer.optim.adamw import adamw, adamw_defaults
from clip_trainer.optim.arguments import OptimizerSettings, explicit_arguments, unknown_optimizer
from clip_trainer.optim.eager import eager
from clip_trainer.optim.groups import GroupRules, ParameterGroup, parameter_groups
from clip_trainer.optim.muon import build_muon
from clipctl.contract.errors import SpecError

TIMM = "timm/"
"""Prefix of the names of timm's optimisers."""
_UNUSABLE = {"optimizer", "lbfgs", "sparseadam"}  # the base class; needs a closure; needs sparse gradients


def optimizer_names() -> list[str]:
    """The optimisers of torch that can be used, in lower case."""
    return sorted(_torch_classes())


def build_optimizer(model: nn.Module, rules: GroupRules, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser of run.yaml over the trainable parameters of `model`.

    Its parameter groups carry the parameters' names (`names`) and the factor on their learning rate (`lr_scale`).

    Raises:
        SpecError: there is no such optimiser, it does not take a setting, or a pattern of `rules` matches nothing.
    """
    groups = [group for group in parameter_groups(model, rules) if group["params"]]
    if not groups:
        raise SpecError("no parameter of the model is trained.", hint="Unlock a part of it (model.lock_*).")
    try:
        return _build(groups, settings)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise SpecError(
            f"train.optimizer {settings.name}: {error}.", hint="See the optimiser's documentation."
        ) from error


def _build(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name.startswith(TIMM):
        from clip_trainer.optim.timm_optimizer import build_timm  # slow to import, and optional

        return build_timm(settings.name.removeprefix(TIMM), groups, settings)
    if settings.name == "muon":
        return _build_muon(groups, settings)
    if settings.name not in _torch_classes():
        raise unknown_optimizer(settings.name, optimizer_names())
    cls = _torch_classes()[settings.name]
    accepted = inspect.signature(cls).parameters
    arguments = {"lr": settings.lr, **explicit_arguments(settings, accepted)}
    if "betas" in accepted:  # OpenCLIP's defaults, for all relatives of Adam
        arguments = {**arguments, **_adam_arguments(settings)}
    if "weight_decay" not in accepted and any(group["weight_decay"] for group in groups):
        raise SpecError(f"train.optimizer {settings.name} has no weight decay.", hint="Set train.weight_decay to 0.")
    if settings.name == "adamw":
        return adamw(groups, **arguments)
    return eager(cls)([dict(group) for group in groups], **arguments)


def _build_muon(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Betas and eps are for AdamW's part; the rest is for Muon's."""
    accepted = dict(inspect.signature(torch.optim.Muon).parameters)
    accepted["betas"] = inspect.signature(torch.optim.AdamW).parameters["betas"]
    own = explicit_arguments(settings, accepted)
    muon = {name: value for name, value in own.items() if name not in ("betas", "eps")}
    return build_muon(groups, {"lr": settings.lr, **muon}, {"lr": settings.lr, **_adam_arguments(settings)})


def _adam_arguments(settings: OptimizerSettings) -> dict[str, Any]:
    default = adamw_defaults(settings.model_name, settings.lr)
    beta1 = default.beta1 if settings.beta1 is None else settings.beta1
    beta2 = default.beta2 if settings.beta2 is None else settings.beta2
    return {"betas": (beta1, beta2), "eps": default.eps if settings.eps is None else settings.eps}


def _torch_classes() -> dict[str, type[torch.optim.Optimizer]]:
    classes = [value for value in vars(torch.optim).values() if isinstance(value, type)]
    found = {cls.__name__.lower(): cls for cls in classes if issubclass(cls, torch.optim.Optimizer)}
    return {name: cls for name, cls in found.items() if name not in _UNUSABLE}
