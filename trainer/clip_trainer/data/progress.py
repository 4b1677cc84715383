"""How long operations tell the command line how far they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True)
class ProgressEvent:
    """How far a long operation is; `done` and `total` count shards (indexing) or samples (packing)."""

    stage: str
    done: int
    total: int
    bytes_done: int
    item: str


Progress = Callable[[ProgressEvent], None]
"""Told how far an operation is; called from worker threads, one call at a time."""


class ProgressTracker:
    """Turns what threads finish into progress events."""

    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
        self._stage, self._total, self._progress = stage, total, progress
        self._lock = Lock()
        self._done = self._bytes = 0
        self._item = ""

    def add_bytes(self, count: int) -> None:
        """Count bytes read."""
        with self._lock:
            self._bytes += count
            self._tell()

    def finish(self, item: str) -> None:
        """Count one item as done."""
        with self._lock:
            self._done += 1
            self._item = item
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(ProgressEvent(self._stage, self._done, self._total, self._bytes, self._item))
