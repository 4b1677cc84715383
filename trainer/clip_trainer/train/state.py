"""The small state of a run, all of it JSON: how far it is, and what it has cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainState:
    """Progress of a run. `samples_consumed` is the whole state of the data order.

    Attributes:
        step: optimiser steps done.
        samples_consumed: position of the next sample in the endless sample order.
        replaced: undecodable samples that were replaced so far.
        productive_seconds: time spent on steps that are part of the current trajectory.
        first_started_at: when the run's first incarnation started (seconds since the epoch).
        evaluate_from: position before the step whose evaluation is not done yet; None if none is owed.
        recoveries: changes of the group by rung of the recovery ladder.
        lost_seconds: what they have cost, by rung.
    """

    step: int = 0
    samples_consumed: int = 0
    replaced: int = 0
    productive_seconds: float = 0.0
    first_started_at: float = 0.0
    evaluate_from: int | None = None
    recoveries: dict[str, int] = field(default_factory=dict)
    lost_seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> TrainState:
        """From plain values, ignoring what a newer version may have added."""
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__ if name in raw})

    def goodput(self, now: float) -> float:
        """Productive seconds divided by the seconds since the run began."""
        elapsed = now - self.first_started_at
        return min(1.0, self.productive_seconds / elapsed) if elapsed > 0 else 0.0
