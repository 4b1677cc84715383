"""What a conversion produces: a run.yaml, and what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Mapping = dict[str, Any]


@dataclass
class Conversion:
    """The result, filled in by the translators of the single sections.

    Attributes:
        spec: the run.yaml as plain values; only what differs from clipctl's defaults.
        notes: what was changed or left out, one sentence each.
        refused: what has no equivalent and would change the training.
    """

    spec: Mapping = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def set(self, path: str, value: Any) -> None:
        """Set a field by its dotted name; None is left out."""
        if value is None:
            return
        *sections, name = path.split(".")
        target = self.spec
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value

    def note(self, text: str) -> None:
        """Say what differs."""
        self.notes.append(text)

    def refuse(self, text: str) -> None:
        """Say what cannot be converted."""
        self.refused.append(text)
