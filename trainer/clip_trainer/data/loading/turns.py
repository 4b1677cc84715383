"""Work that is done in the order of batches, whatever the order in which it became ready."""

from __future__ import annotations

import heapq
import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TurnQueue(Generic[Item]):
    """A queue between threads. What belongs to an earlier batch comes out first; later batches wait behind a gate.

    The gate bounds how many batches are in the making, and keeps threads from working on a late batch, which happens
    to be ready, in place of the one that is waited for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[int, int, Item]] = []
        self._added = 0
        self._open = -1
        self._closed = False

    def put(self, turn: int, item: Item) -> None:
        """Add work for batch number `turn`; equal turns come out as they came in."""
        with self._changed:
            heapq.heappush(self._heap, (turn, self._added, item))
            self._added += 1
            self._changed.notify()

    def take(self) -> Item | None:
        """The next piece of work whose turn is open; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ready())
            return None if self._closed else heapq.heappop(self._heap)[2]

    def open(self, turn: int) -> None:
        """Let out work for batches up to number `turn`."""
        with self._changed:
            self._open = turn
            self._changed.notify_all()

    def close(self) -> None:
        """Forget all work and send everybody home."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify_all()

    def _ready(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= self._open
