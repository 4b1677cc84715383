"""How fast a piece of work goes when several threads do it over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Work that was done, and what it took."""

    samples: int
    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Of the whole process, over all threads."""
    bytes: int = 0
    """Read from storage."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0

    @property
    def cpu_per_sample(self) -> float:
        """CPU seconds of a sample."""
        return self.cpu_seconds / self.samples if self.samples else 0.0


def time_work(
    work: Callable[[Item], int],
    items: Iterator[Item],
    *,
    threads: int,
    seconds: float,
    clock: Clock = time.monotonic,
    cpu_clock: Clock = time.process_time,
) -> Timing:
    """Do work in threads until the time is up or the items are.

    Args:
        work: does one item; returns how many samples that was.
        items: what to work on; taken by one thread at a time.
        threads: how many threads.
        seconds: no item is begun after that, except the first one of a thread.
        clock: wall time.
        cpu_clock: CPU time of the process.
    """
    lock = Lock()
    started, cpu_started = clock(), cpu_clock()
    ends = started + seconds

    def run() -> int:
        done = 0
        while True:
            with lock:
                item = next(items, None)
            if item is None:
                return done
            done += work(item)
            if clock() >= ends:
                return done

    with ThreadPoolExecutor(threads, thread_name_prefix="clip-bench") as pool:
        samples = sum(future.result() for future in [pool.submit(run) for _ in range(threads)])
    return Timing(samples, clock() - started, cpu_clock() - cpu_started)
