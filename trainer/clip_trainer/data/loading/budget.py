"""How much memory the making of batches may take: one account for encoded bytes, pixels and finished batches."""

from __future__ import annotations

import threading


class MemoryBudget:
    """An account of bytes, shared by threads.

    Work that brings new bytes in asks first, and waits while the account is full. Work for the batch that is wanted
    next never waits, so a budget that is too small makes the loader slow and not stuck.

    Args:
        limit: bytes.

    Attributes:
        held: bytes on the account now.
        peak: the most there ever were.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._wanted = 0
        self._closed = False
        self.held = 0
        self.peak = 0

    def admit(self, turn: int, size: int) -> bool:
        """Wait for room for `size` bytes and charge them.

        Args:
            turn: number of the batch they are for.
            size: bytes, perhaps an estimate; correct it with `charge`.

        Returns:
            False if the account was closed instead.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or turn <= self._wanted or self.held + size <= self._limit)
            if not self._closed:
                self._add(size)
            return not self._closed

    def charge(self, size: int) -> None:
        """Add bytes that are there already; negative ones were released."""
        with self._changed:
            self._add(size)
            if size < 0:
                self._changed.notify_all()

    def want(self, turn: int) -> None:
        """Batch number `turn` is wanted next: nothing for it, or for those before it, waits any more."""
        with self._changed:
            self._wanted = turn
            self._changed.notify_all()

    def close(self) -> None:
        """Send everybody home who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)
