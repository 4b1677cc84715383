"""What a run says about its data: how long steps wait for it, and what reading it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clip_trainer.train.events import EventLog
from clip_trainer.train.metrics import TrainerMetrics
from clipctl.contract import metric_names as names

EVENT_STEPS = 100
"""Steps between two `data` events in the ledger."""

_COUNTERS = {
    "bytes_read": (names.TRAIN_DATA_BYTES, ()),
    "requests": (names.TRAIN_DATA_REQUESTS, ()),
    "retries": (names.TRAIN_DATA_RETRIES, ()),
    "cache_hits": (names.TRAIN_DATA_CACHE, ("hit",)),
    "cache_misses": (names.TRAIN_DATA_CACHE, ("miss",)),
    "stalls": (names.TRAIN_DATA_STALLS, ()),
}


class DataRecord:
    """Turns what a loader counts into metrics, after every step, and into events of the ledger, now and then.

    Args:
        events: the ledger; it holds what the first rank counts.
        metrics: of this rank.
        snapshot: the loader's counts so far.
        every: steps between two events.
    """

    def __init__(
        self,
        events: EventLog,
        metrics: TrainerMetrics,
        snapshot: Callable[[], dict[str, Any]],
        every: int = EVENT_STEPS,
    ) -> None:
        self._events, self._metrics, self._snapshot, self._every = events, metrics, snapshot, every
        self._counted: dict[str, int] = {}
        self._waited = self._elapsed = 0.0

    def step(self, step: int, waited: float, seconds: float) -> None:
        """Record one step.

        Args:
            step: its number.
            waited: how long it waited for its batch, seconds.
            seconds: how long it took in all.
        """
        counts = self._snapshot()
        self._metrics[names.TRAIN_DATA_WAIT].set(_share(waited, seconds))
        self._metrics[names.TRAIN_DATA_MEMORY].set(counts["memory_bytes"])
        for key, (metric, labels) in _COUNTERS.items():
            counter = self._metrics[metric].labels(*labels) if labels else self._metrics[metric]
            counter.inc(counts[key] - self._counted.get(key, 0))
            self._counted[key] = counts[key]
        self._waited += waited
        self._elapsed += seconds
        if step % self._every == 0:
            self._events.write("data", step=step, wait_ratio=round(_share(self._waited, self._elapsed), 4), **counts)
            self._waited = self._elapsed = 0.0


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0
