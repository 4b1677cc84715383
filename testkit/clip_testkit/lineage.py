"""Weights that must be equal bit by bit: those made by the same numbers of ranks, step for step from the beginning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clip_testkit.ledger import Event, Incarnation
from clip_testkit.ledger_faults import FORK, Fault

Lineage = tuple[int, int]  # a step, and a hash of the world sizes of all steps up to it
_ORIGIN: Lineage = (0, 0)


def forked_weights(groups: Sequence[Incarnation]) -> list[Fault]:
    """Steps whose checksum differs from an earlier one of the same lineage; steps without a checksum are passed over.

    Args:
        groups: all incarnations, oldest first.
    """
    known: dict[Lineage, Event] = {}
    at: dict[int, Lineage] = {0: _ORIGIN}
    faults = []
    for group in groups:
        at = {step: lineage for step, lineage in at.items() if step <= group.started["step"]}
        for event in group.steps:
            lineage = _next(at.get(event["step"] - 1), event)
            if lineage is None:
                continue
            at[event["step"]] = lineage
            faults += _compare(known, lineage, event)
    return faults


def unequal_weights(steps: Iterable[Event], others: Iterable[Event]) -> list[Fault]:
    """The same for two trajectories, each with one event a step."""
    known: dict[Lineage, Event] = {}
    faults = []
    for events in (others, steps):
        lineage: Lineage | None = _ORIGIN
        for event in events:
            lineage = _next(lineage, event)
            if lineage is not None:
                faults += _compare(known, lineage, event)
    return faults


def _next(before: Lineage | None, event: Event) -> Lineage | None:
    if before is None or before[0] != event["step"] - 1 or event.get("world") is None:
        return None
    return event["step"], hash((before[1], event["world"]))


def _compare(known: dict[Lineage, Event], lineage: Lineage, event: Event) -> list[Fault]:
    if event.get("checksum") is None:
        return []
    other = known.setdefault(lineage, event)
    if other["checksum"] == event["checksum"]:
        return []
    who = f"incarnations {other['incarnation']} and {event['incarnation']}"
    return [Fault(FORK, event["step"], f"{who} got other weights, with the same ranks all the way")]
