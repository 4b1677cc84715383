"""Who may be asked next: requests in line by host, so that none is asked too much and nobody waits for a busy one.

A plain data structure: time is an argument, and whoever shares it between threads brings a lock.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Host(Generic[T]):
    waiting: deque[T] = field(default_factory=deque)
    active: int = 0
    next_start: float = 0.0  # no request starts before
    delay: float = 0.0  # seconds between the starts of two requests
    in_line: bool = False  # has an entry among the hosts that may be asked


class HostQueue(Generic[T]):
    """Items by host; of each host only a few are out at a time.

    Args:
        per_host: how many items of one host may be out.
        delay: seconds between the starts of two items of one host.
    """

    def __init__(self, per_host: int, delay: float = 0.0) -> None:
        self._per_host, self._delay = per_host, delay
        self._hosts: dict[str, _Host[T]] = {}
        self._line: list[tuple[float, int, str]] = []  # hosts that may be asked: when, in which order
        self._later: list[tuple[float, int, str, T]] = []  # items that wait for another attempt
        self._idle: list[tuple[float, str]] = []  # hosts to be forgotten, and when
        self._order = count()

    def put(self, host: str, item: T, not_before: float = 0.0) -> None:
        """Put an item in its host's line, not to be taken before a time."""
        if not_before > 0:
            heapq.heappush(self._later, (not_before, next(self._order), host, item))
            return
        entry = self._hosts.setdefault(host, _Host(delay=self._delay))
        entry.waiting.append(item)
        self._line_up(host, entry)

    def take(self, now: float) -> tuple[str, T] | None:
        """The next item that may start, with its host; give the host back with `release`."""
        while self._later and self._later[0][0] <= now:
            _, _, host, item = heapq.heappop(self._later)
            self.put(host, item)
        while self._line and self._line[0][0] <= now:
            _, _, host = heapq.heappop(self._line)
            entry = self._hosts[host]
            entry.in_line = False
            if entry.next_start > now:  # it was slowed down since it got in line
                self._line_up(host, entry)
                continue
            item = entry.waiting.popleft()
            entry.active += 1
            entry.next_start = now + entry.delay
            self._line_up(host, entry)
            return host, item
        return None

    def release(self, host: str, now: float) -> None:
        """An item of a host is no longer out."""
        entry = self._hosts[host]
        entry.active -= 1
        self._line_up(host, entry)
        if not entry.active and not entry.waiting:
            heapq.heappush(self._idle, (entry.next_start, host))
        self._forget_idle(now)

    def pause(self, host: str, until: float) -> None:
        """Start nothing of a host that has an item out before a time."""
        entry = self._hosts[host]
        entry.next_start = max(entry.next_start, until)

    def slow_down(self, host: str, delay: float) -> None:
        """Keep at least so many seconds between the starts of two items of a host that has one out."""
        entry = self._hosts[host]
        if delay > entry.delay:
            entry.next_start += delay - entry.delay
            entry.delay = delay

    def wait(self, now: float) -> float | None:
        """Seconds until something may start, if nothing is put or released before; None if nothing will."""
        times = [heap[0][0] for heap in (self._line, self._later) if heap]
        return max(0.0, min(times) - now) if times else None

    def _forget_idle(self, now: float) -> None:
        """Drop hosts of which nothing is left to remember: tables name millions."""
        while self._idle and self._idle[0][0] <= now:
            _, host = heapq.heappop(self._idle)
            entry = self._hosts.get(host)
            if entry is not None and not entry.active and not entry.waiting and entry.next_start <= now:
                del self._hosts[host]

    def _line_up(self, host: str, entry: _Host[T]) -> None:
        if entry.waiting and entry.active < self._per_host and not entry.in_line:
            entry.in_line = True
            heapq.heappush(self._line, (entry.next_start, next(self._order), host))
