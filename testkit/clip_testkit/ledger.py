"""A run's ledger, by the incarnations that wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True)
class Incarnation:
    """What was written under one incarnation number, in that order.

    The group may be formed again while rank 0 stays; then `regrouped` follows the first step of the new group.

    Attributes:
        number: of the incarnation.
        started: its first event.
        steps: its step events. Those marked `copy` were done before by others, who could not store them any more.
        regrouped: its events of that name.
        checkpoints: ids it says it committed.
        rejected: ids it found damaged.
    """

    number: int
    started: Event
    steps: tuple[Event, ...]
    regrouped: tuple[Event, ...]
    checkpoints: frozenset[str]
    rejected: frozenset[str]

    @property
    def copies(self) -> int:
        """How many copies its ledger begins with."""
        return next((index for index, event in enumerate(self.steps) if not event.get("copy")), len(self.steps))

    @property
    def state(self) -> int:
        """The step whose state it began with: a checkpoint's, or what a survivor had in memory."""
        return int(self.steps[self.copies - 1]["step"] if self.copies else self.started["step"])


def incarnations(events: Iterable[Event]) -> list[Incarnation]:
    """Those that got as far as starting, oldest first."""
    found: dict[int, list[Event]] = {}
    for event in events:
        found.setdefault(event["incarnation"], []).append(event)
    return [
        _incarnation(number, own)
        for number, own in sorted(found.items())
        if any(event["event"] == "started" for event in own)
    ]


def _incarnation(number: int, events: Sequence[Event]) -> Incarnation:
    def named(name: str) -> list[Event]:
        return [event for event in events if event["event"] == name]

    return Incarnation(
        number,
        started=named("started")[0],
        steps=tuple(named("step")),
        regrouped=tuple(named("regrouped")),
        checkpoints=frozenset(event["checkpoint"] for event in named("checkpoint")),
        rejected=frozenset(event["checkpoint"] for event in named("checkpoint_rejected")),
    )
