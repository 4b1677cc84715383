"""The `retry` section of a run as it travels in its job's annotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clip_operator.edited import parse_json, parse_number


@dataclass(frozen=True)
class RetryPolicy:
    """The `retry` section as it stands in the job's annotation; damaged values fall back to giving up early."""

    budget: Mapping[str, int] = field(default_factory=dict)
    restarts_in_place: int = 0
    backoff_seconds: float = 10.0
    deadline_seconds: float | None = None
    ttl_seconds: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> RetryPolicy:
        """Read the annotation; without one no failure is retried."""
        raw = parse_json(text)
        if not isinstance(raw, dict):
            return cls()
        attempts = raw.get("attempts")
        budget = attempts if isinstance(attempts, dict) else {}
        return cls(
            budget={str(k): int(n) for k, v in budget.items() if (n := parse_number(v)) is not None},
            restarts_in_place=int(parse_number(raw.get("restarts_in_place")) or 0),
            backoff_seconds=parse_number(raw.get("backoff_seconds")) or 0.0,
            deadline_seconds=parse_number(raw.get("deadline_seconds")),
            ttl_seconds=parse_number(raw.get("ttl_seconds")),
        )
