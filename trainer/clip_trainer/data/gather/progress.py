"""How far gathering is: images a second, and why rows fail."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from clip_trainer.data.gather.errors import OK
from clip_trainer.data.gather.results import Result
from clip_trainer.data.progress import Progress, ProgressEvent

_REASONS_SHOWN = 4


class GatherTally:
    """Counts results by status, those of an interrupted run too, and tells the progress; safe to share between threads.

    Args:
        total: rows of the table.
        progress: told after every row.
        clock: seconds, for the rate.
    """

    def __init__(self, total: int, progress: Progress | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._progress, self._clock = total, progress, clock
        self._lock = threading.Lock()
        self._statuses: Counter[str] = Counter()
        self._began = clock()
        self._bytes = self._images = 0
        self.fetched = 0  # rows that this run dealt with

    def count_stored(self, results: Iterable[Result]) -> None:
        """Count results that an earlier run has left."""
        with self._lock:
            self._statuses.update(result.status for result in results)

    def count(self, status: str, size: int) -> None:
        """Count a row of this run."""
        with self._lock:
            self._statuses[status] += 1
            self.fetched += 1
            self._bytes += size
            self._images += status == OK
            if self._progress is not None:
                done = sum(self._statuses.values())
                self._progress(ProgressEvent("gather", done, self._total, self._bytes, self._text()))

    @property
    def images(self) -> int:
        """Rows whose image is there."""
        return self._statuses[OK]

    @property
    def failures(self) -> Mapping[str, int]:
        """Rows without an image by reason, the most frequent first."""
        reasons = ((status, number) for status, number in self._statuses.items() if status != OK and number)
        return dict(sorted(reasons, key=lambda entry: (-entry[1], entry[0])))

    def _text(self) -> str:
        rate = self._images / max(self._clock() - self._began, 1e-3)
        shown = ", ".join(f"{reason} {number}" for reason, number in list(self.failures.items())[:_REASONS_SHOWN])
        return f"({rate:.1f} images/s" + (f"; failed: {shown})" if shown else ")")
