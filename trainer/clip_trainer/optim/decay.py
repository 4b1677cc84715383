"""Which parameters decay: OpenCLIP's two rules and further exceptions."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from clipctl.contract.errors import SpecError

_UNDECAYED_NAMES = ("bn", "ln", "bias", "logit_scale")


def decayed_names(model: nn.Module, rule: str, no_decay: tuple[str, ...] = ()) -> frozenset[str]:
    """Names of the parameters of `model` that decay, frozen ones included.

    Args:
        model: the model; for `modern` its `no_weight_decay()` names exceptions, if it has one.
        rule: `openclip`: all with two or more dimensions, unless their name contains bn, ln, bias or logit_scale
            (open_clip_train 3.3.0); `modern`: all with two or more dimensions that the model does not except (the
            rule of its development version, and of timm's optimisers in 3.3.0).
        no_decay: shell patterns of further exceptions.

    Raises:
        SpecError: a pattern matches nothing.
    """
    parameters = dict(model.named_parameters())
    if rule == "modern":
        names = {name for name, parameter in parameters.items() if parameter.ndim > 1} - _excepted(model)
    else:
        assert rule == "openclip", rule
        names = {
            name
            for name, parameter in parameters.items()
            if parameter.ndim > 1 and not any(part in name for part in _UNDECAYED_NAMES)
        }
    for pattern in no_decay:
        names -= matching(parameters, pattern, "train.no_decay")
    return frozenset(names)


def matching(names: dict[str, nn.Parameter], pattern: str, field: str) -> set[str]:
    """The names that a shell pattern matches.

    Raises:
        SpecError: there are none, so the pattern must be a mistake.
    """
    found = {name for name in names if fnmatchcase(name, pattern)}
    if not found:
        some = ", ".join(list(names)[:: max(1, len(names) // 4)])
        raise SpecError(f"{field}: {pattern!r} matches no parameter of the model.", hint=f"Names look like {some}.")
    return found


def _excepted(model: nn.Module) -> set[str]:
    method = getattr(model, "no_weight_decay", None)
    return set(method()) if callable(method) else set()
