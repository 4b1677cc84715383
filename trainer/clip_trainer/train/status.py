"""What a running job says about itself: `status.json` in storage for `clipctl status`, at most every few seconds."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from clipctl.contract import layout
from clipctl.contract.errors import ClipError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.store import ObjectStore


class Rate:
    """Samples per second over the last few steps, by a monotonic clock."""

    def __init__(self, window: int = 20, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._marks: deque[tuple[float, int]] = deque([(monotonic(), 0)], maxlen=window)
        self._samples = 0

    def add(self, samples: int) -> None:
        """Count the samples of one more step."""
        self._samples += samples
        self._marks.append((self._monotonic(), self._samples))

    def per_second(self) -> float:
        """The current rate; 0 before the first step."""
        (started, before), (ended, after) = self._marks[0], self._marks[-1]
        return (after - before) / (ended - started) if ended > started else 0.0


class StatusFile:
    """Writes `status.json`; a storage outage only makes it stale."""

    def __init__(self, store: ObjectStore | None, clock: Callable[[], float], every_seconds: float = 2.0) -> None:
        self._store = store
        self._clock = clock
        self._every_seconds = every_seconds
        self._written_at = float("-inf")

    def write_if_due(self, fields: Callable[[], dict[str, Any]]) -> None:
        """Write the current state if the last write is long enough ago."""
        if self._clock() - self._written_at >= self._every_seconds:
            self.write(fields())

    def write(self, fields: dict[str, Any]) -> None:
        """Write the current state now."""
        if self._store is None:
            return
        failpoint("train.status")
        self._written_at = self._clock()
        record = {"updated_at": round(self._written_at, 3), **fields}
        try:
            self._store.write(layout.STATUS, json.dumps(record).encode())
        except ClipError as error:
            print(f"status.json was not updated: {error.problem}", flush=True)
