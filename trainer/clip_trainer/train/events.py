"""The event log: JSON lines in storage, written by rank 0 as immutable segments below `events/inc-N/`.

It is the run's ledger: every optimiser step says which samples it consumed. A segment is written before each commit, so
the ledger of a committed step is never missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from clipctl.contract import layout
from clipctl.contract.errors import ClipError
from clipctl.contract.redact import redact
from clipctl.contract.store import ObjectStore

Clock = Callable[[], float]


class EventLog:
    """Collects events and stores them in segments.

    Args:
        store: the run's store, or None on ranks that do not write.
        incarnation: whose log this is.
        clock: seconds since the epoch.
        flush_seconds: longest time an event waits in memory.
    """

    def __init__(self, store: ObjectStore | None, incarnation: int, clock: Clock, flush_seconds: float = 10.0) -> None:
        self._store = store
        self._incarnation = incarnation
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._pending: list[str] = []
        self._sequence = 0
        self._flushed_at = clock()

    def write(self, event: str, **fields: Any) -> None:
        """Add one event; it is stored with the next segment."""
        if self._store is None:
            return
        record = {"time": round(self._clock(), 3), "event": event, "incarnation": self._incarnation, **fields}
        self._pending.append(json.dumps(_redacted(record), separators=(",", ":")))

    def announce(self, event: str, message: str, **fields: Any) -> None:
        """Add an event that people should see: it is also printed, and stored at once."""
        if self._store is None:
            return
        print(redact(message), file=sys.stderr, flush=True)
        self.write(event, message=message, **fields)
        self.flush()

    def flush_if_due(self) -> None:
        """Store the pending events if they have waited long enough.

        Training outlives a storage outage: what cannot be stored now is kept and tried again. `flush`, which precedes
        every commit, does raise.
        """
        if self._clock() - self._flushed_at >= self._flush_seconds:
            self.try_flush()

    def try_flush(self) -> None:
        """Store the pending events if that is possible."""
        try:
            self.flush()
        except ClipError as error:
            print(redact(f"events are kept in memory for now: {error}"), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Store the pending events as the next segment."""
        self._flushed_at = self._clock()
        if self._store is None or not self._pending:
            return
        key = layout.events_key(self._incarnation, self._sequence)
        self._store.write(key, ("\n".join(self._pending) + "\n").encode())
        self._sequence += 1
        self._pending.clear()


def _redacted(value: Any) -> Any:
    """`value` with credentials masked in every text.

    Masking the finished JSON would be shorter, but a mask that swallows a quote or a bare number breaks the line.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(child) for child in value]
    return value


def read_events(store: ObjectStore) -> Iterator[dict[str, Any]]:
    """All stored events: by incarnation, then in the order they were written."""
    for info in store.list(layout.EVENTS):
        for line in store.read(info.key).decode().splitlines():
            yield json.loads(line)


def trajectory(events: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The step events that lead to the newest state, one per step, without the work that was lost to failures.

    An incarnation that resumed after step s makes every later step of its predecessors void.
    """
    steps: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "started":
            steps = {step: kept for step, kept in steps.items() if step <= event["step"]}
        elif event["event"] == "step":
            steps[event["step"]] = event
    return [steps[step] for step in sorted(steps)]
