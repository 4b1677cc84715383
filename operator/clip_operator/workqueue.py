"""A queue of keys: each is worked on by one worker at a time, duplicates merge, failures back off.

The rules live in `DelayQueue`, which knows no threads and no clock of its own; `WorkQueue` adds the waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BASE_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0


class DelayQueue(Generic[Key]):
    """Keys with the time they are due. Not thread-safe.

    Args:
        jitter: returns a factor in [1, 2) for each back-off, so that keys that failed together do not return together.
    """

    def __init__(self, jitter: Callable[[], float] = lambda: 1.0) -> None:
        self._due: dict[Key, float] = {}
        self._active: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._jitter = jitter

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, due: float) -> None:
        """Ask for `key` at `due`; the earlier of two requests counts."""
        self._due[key] = min(due, self._due.get(key, due))

    def take(self, now: float) -> Key | None:
        """The key that has been due longest and is not being worked on; None if there is none."""
        ready = [(due, index) for index, (key, due) in enumerate(self._due.items()) if due <= now and self._free(key)]
        if not ready:
            return None
        key = list(self._due)[min(ready)[1]]
        del self._due[key]
        self._active.add(key)
        return key

    def next_due(self) -> float | None:
        """When the next free key is due."""
        return min((due for key, due in self._due.items() if self._free(key)), default=None)

    def done(self, key: Key) -> None:
        """Work on `key` succeeded: its back-off starts anew."""
        self._active.discard(key)
        self._failures.pop(key, None)

    def failed(self, key: Key, now: float, at_least: float = 0.0) -> float:
        """Work on `key` failed: it is due again after its back-off, or what the server asked for. Returns the wait."""
        self._active.discard(key)
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff = min(BASE_BACKOFF_SECONDS * 2.0 ** min(failures, 16), MAX_BACKOFF_SECONDS) * self._jitter()
        # A request that came in meanwhile must not shorten the wait: events would drive a failing key in a tight loop.
        self._due[key] = now + max(backoff, at_least)
        return max(backoff, at_least)

    def _free(self, key: Key) -> bool:
        return key not in self._active


class WorkQueue(Generic[Key]):
    """`DelayQueue` for threads. `clock` must be monotonic."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = lambda: 1.0) -> None:
        self._queue: DelayQueue[Key] = DelayQueue(jitter)
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._queue)

    def add(self, key: Key, after: float = 0.0) -> None:
        """Ask for `key` in `after` seconds."""
        with self._changed:
            self._queue.add(key, self._clock() + after)
            self._changed.notify_all()

    def take(self) -> Key | None:
        """Wait for the next key; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                key = self._queue.take(self._clock())
                if key is not None:
                    return key
                due = self._queue.next_due()
                self._changed.wait(None if due is None else max(due - self._clock(), 0.0))
            return None

    def done(self, key: Key, again_after: float | None = None) -> None:
        """Work succeeded; `again_after` seconds from now it is looked at again."""
        with self._changed:
            self._queue.done(key)
            if again_after is not None:
                self._queue.add(key, self._clock() + again_after)
            self._changed.notify_all()

    def failed(self, key: Key, at_least: float = 0.0) -> float:
        """Work failed; returns the seconds until it is tried again."""
        with self._changed:
            wait = self._queue.failed(key, self._clock(), at_least)
            self._changed.notify_all()
            return wait

    def close(self) -> None:
        """Wake all waiting workers with None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
