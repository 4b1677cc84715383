"""The event log: JSON lines in storage, written by rank 0 as immutable segments below `events/inc-N/`.

It is the run's ledger: every optimiser step says which samples it consumed. A segment is written before each commit, so
the ledger of a committed step is never missing.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clipctl.contract import layout
from clipctl.contract.errors import ClipError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.redact import redact
from clipctl.contract.store import ObjectStore

Clock = Callable[[], float]


class EventLog:
    """Collects events and, on rank 0, stores them in segments.

    Every rank remembers the steps that no committed checkpoint covers yet: if rank 0 is lost with steps it had not
    stored, its successor stores them. The methods may be called from the thread that saves checkpoints too.

    Args:
        store: the run's store.
        clock: seconds since the epoch.
        flush_seconds: longest time an event waits in memory.
    """

    def __init__(self, store: ObjectStore, clock: Clock, flush_seconds: float = 10.0) -> None:
        self._store = store
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._incarnation: int | None = None
        self._pending: list[str] = []
        self._sequence = 0
        self._flushed_at = clock()
        self._steps: dict[int, dict[str, Any]] = {}
        self._storing = threading.RLock()

    @property
    def writes(self) -> bool:
        """Whether this rank stores events."""
        return self._incarnation is not None

    def open(self, incarnation: int) -> None:
        """Store events from now on, as the log of a new incarnation."""
        self.try_flush()  # what an incarnation before this one has not stored yet
        with self._storing:
            self._incarnation, self._sequence = incarnation, 0
            self._pending.clear()

    def close(self) -> None:
        """Store what is pending and no events from now on: another rank keeps the ledger."""
        self.try_flush()
        with self._storing:
            self._incarnation = None
            self._pending.clear()

    def write(self, event: str, **fields: Any) -> None:
        """Add one event; it is stored with the next segment. Other ranks only remember steps."""
        if event == "step":
            self._steps[fields["step"]] = fields
        if self._incarnation is None:
            return
        record = {"time": round(self._clock(), 3), "event": event, "incarnation": self._incarnation, **fields}
        self._pending.append(json.dumps(_redacted(record), separators=(",", ":")))

    def tell(self, event: str, message: str, **fields: Any) -> None:
        """Add an event that people should see: it is also printed."""
        if self._incarnation is not None:
            print(redact(message), file=sys.stderr, flush=True)
            self.write(event, message=message, **fields)

    def announce(self, event: str, message: str, **fields: Any) -> None:
        """Add an event that people should see: it is also printed, and stored at once."""
        self.tell(event, message, **fields)
        self.flush()

    def remembered(self, after: int) -> list[dict[str, Any]]:
        """The remembered steps after step `after`, in order."""
        return [self._steps[step] for step in sorted(self._steps) if step > after]

    def remember(self, steps: Iterable[dict[str, Any]]) -> None:
        """Take over the memory of another rank."""
        self._steps = {fields["step"]: fields for fields in steps}

    def forget(self, until: int) -> None:
        """Drop the memory of the steps up to `until`: a committed checkpoint has them, and storage their events."""
        for step in [step for step in self._steps if step <= until]:
            del self._steps[step]

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
        with self._storing:
            count = len(self._pending)  # more may be added meanwhile
            if self._incarnation is None or not count:
                return
            key = layout.events_key(self._incarnation, self._sequence)
            failpoint("train.events_pending")
            self._store.write(key, ("\n".join(self._pending[:count]) + "\n").encode())
            failpoint("train.events_stored")
            self._sequence += 1
            del self._pending[:count]


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
