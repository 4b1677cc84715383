"""What run.yaml says about the optimiser, and whether an optimiser takes it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from clipctl.contract.errors import SpecError

Option = bool | int | float | str

_FIELDS = {
    "params": "train.parameter_groups",
    "lr": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "betas": "train.beta1 and train.beta2",
    "eps": "train.eps",
    "momentum": "train.momentum",
}
"""Arguments of optimisers that have fields of their own."""


@dataclass(frozen=True)
class OptimizerSettings:
    """What run.yaml says about the optimiser; None means the default."""

    name: str = "adamw"
    """`adamw`, another optimiser of torch in lower case, or `timm/<name>`."""
    lr: float = 5e-4
    """Peak learning rate."""
    model_name: str = "ViT"
    """Decides over OpenCLIP's defaults, see `adamw.adamw_defaults`."""
    beta1: float | None = None
    """Decay of the first moment."""
    beta2: float | None = None
    """Decay of the second moment."""
    eps: float | None = None
    """Term in the denominator."""
    momentum: float | None = None
    """Momentum of optimisers that have one."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Further arguments of the optimiser."""


def explicit_arguments(settings: OptimizerSettings, accepted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The settings that were given, as arguments of an optimiser.

    Args:
        settings: what run.yaml says.
        accepted: the parameters of the optimiser.

    Raises:
        SpecError: it does not take one of them.
    """
    _check_options(settings, accepted)
    given: dict[str, Any] = {}
    if settings.beta1 is not None or settings.beta2 is not None:
        given["betas"] = _betas(settings, accepted)
    if settings.eps is not None:
        given["eps"] = settings.eps
    if settings.momentum is not None:
        given["momentum"] = settings.momentum
    for name in given:
        if name not in accepted:
            raise SpecError(f"train.optimizer {settings.name} has no {name}.", hint=f"Remove {_FIELDS[name]}.")
    if "eps" in given and isinstance(accepted["eps"].default, tuple):
        raise SpecError(f"train.optimizer {settings.name} has no single eps.", hint="Remove train.eps.")
    return given | dict(settings.options)


def unknown_optimizer(name: str, known: Collection[str]) -> SpecError:
    """The error for a name that is not among `known`."""
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f"Did you mean {near[0]}? " if near else ""
    return SpecError(f"There is no optimiser called {name!r}.", hint=f"{suggestion}Known: {', '.join(sorted(known))}.")


def _check_options(settings: OptimizerSettings, accepted: Mapping[str, inspect.Parameter]) -> None:
    free = sorted(name for name in accepted if name not in (*_FIELDS, "kwargs", "args"))
    for name in settings.options:
        if name in _FIELDS:
            raise SpecError(f"train.optimizer_options.{name} has a field of its own.", hint=f"Use {_FIELDS[name]}.")
        if name not in free:
            near = difflib.get_close_matches(name, free, n=1)
            suggestion = f"Did you mean {near[0]}? " if near else ""
            raise SpecError(
                f"train.optimizer {settings.name} takes no option {name!r}.",
                hint=f"{suggestion}It takes: {', '.join(free)}.",
            )


def _betas(settings: OptimizerSettings, accepted: Mapping[str, inspect.Parameter]) -> tuple[float, float]:
    default = accepted["betas"].default if "betas" in accepted else (0.9, 0.999)
    if len(default) != 2:
        raise SpecError(
            f"train.optimizer {settings.name} has {len(default)} betas.", hint="Remove train.beta1 and train.beta2."
        )
    return tuple(  # type: ignore[return-value]
        given if given is not None else own
        for given, own in zip((settings.beta1, settings.beta2), default, strict=True)
    )
