"""Reading labels and annotations that people may have edited: anything unusable counts as absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clipctl.contract import names


def attempt_of(metadata: Mapping[str, Any]) -> int:
    """The attempt label as a number; 0 if it is missing or damaged."""
    text = str((metadata.get("labels") or {}).get(names.LABEL_ATTEMPT, ""))
    return int(text) if text.isascii() and text.isdigit() else 0


def parse_json(text: str | None) -> object:
    """The JSON value of an annotation; None if there is none."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def parse_number(value: object) -> float | None:
    """A sensible non-negative number; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53:
        return float(value)
    return None
