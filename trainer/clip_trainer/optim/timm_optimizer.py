"""Optimisers of timm by name. timm is optional: only a run that names one of them needs it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from clip_trainer.optim.arguments import OptimizerSettings, explicit_arguments, unknown_optimizer
from clip_trainer.optim.groups import ParameterGroup
from clipctl.contract.errors import SpecError

_LOOKAHEAD = "lookahead_"
_UNUSABLE = ("adahessian", "kron")  # needs second derivatives; draws numbers that no checkpoint would have


def build_timm(name: str, groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser `name` of timm over `groups`, with timm's defaults for all that is not set (as in OpenCLIP).

    Args:
        name: as in `timm.optim.list_optimizers()`, also behind `lookahead_`.
        groups: the parameters; timm does not divide them again.
        settings: what run.yaml says.

    Raises:
        SpecError: timm is not installed, has no such optimiser, or it does not take a setting.
    """
    try:
        optim: Any = importlib.import_module("timm.optim")
    except ImportError:
        raise SpecError(f"train.optimizer timm/{name} needs the package timm.", hint="pip install timm") from None
    base = name.removeprefix(_LOOKAHEAD)
    known = [each for each in optim.list_optimizers() if not each.startswith(_UNUSABLE)]
    if base not in known:
        raise unknown_optimizer(f"timm/{name}", [f"timm/{each}" for each in known])
    cls = optim.get_optimizer_class(base, bind_defaults=False)
    accepted = inspect.signature(cls).parameters
    arguments: dict[str, Any] = explicit_arguments(settings, accepted)
    optimizer: torch.optim.Optimizer = optim.create_optimizer_v2(
        [dict(group) for group in groups], name, lr=settings.lr, **arguments
    )
    if name.startswith(_LOOKAHEAD):
        optimizer.state = optimizer._base_optimizer.state  # type: ignore[attr-defined]  # its slow weights are there
    return optimizer
