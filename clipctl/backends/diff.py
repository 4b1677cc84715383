"""Says in words what two specs of the same name differ in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clipctl.contract.errors import SpecError
from clipctl.contract.redact import is_secret_name, mask_credentials

_ABSENT = object()
_MAX_SHOWN = 20


def spec_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line per field that differs: `train.steps: 100 -> 200`, in the order of the fields' names."""
    return list(_compare("", old, new))


def refuse_changed(name: str, old: dict[str, Any], new: dict[str, Any]) -> SpecError:
    """The error for submitting a changed file under a name that exists."""
    lines = spec_differences(old, new)
    shown = "\n".join(f"  {line}" for line in lines[:_MAX_SHOWN])
    more = f"\n  ... and {len(lines) - _MAX_SHOWN} more" if len(lines) > _MAX_SHOWN else ""
    return SpecError(
        f"run {name} exists with another spec:\n{shown}{more}\n",
        hint="Use --replace to stop it and continue from its checkpoints with the new spec, or choose another name.",
    )


def _compare(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else key
            yield from _compare(inner, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif old != new or type(old) is not type(new):
        yield f"{path}: {_shown(path, old)} -> {_shown(path, new)}"


def _shown(path: str, value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    if is_secret_name(path.rpartition(".")[2]) and isinstance(value, str):
        return "***"
    text = json.dumps(value, ensure_ascii=False)
    return mask_credentials(text if len(text) <= 120 else text[:117] + "...")
