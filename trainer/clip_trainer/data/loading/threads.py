"""The threads of a loader."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import torch

from clip_trainer.data.loading.activity import Clock, Slot


class Crew:
    """Threads that run until their work returns, each with a slot that says what it is doing.

    torch gives every thread that calls it a team of its own for large operations. Here the threads are the
    parallelism, so theirs are teams of one; the rest of the process keeps its setting. They do not keep the process
    alive: a read that hangs must not stop a worker from ending.

    Args:
        clock: seconds, monotonic, for the slots.
        work: what to do, and in how many threads.
    """

    def __init__(self, clock: Clock, work: Mapping[Callable[[Slot], None], int]) -> None:
        tasks = [task for task, count in work.items() for _ in range(count)]
        self.slots = [Slot(clock) for _ in tasks]
        self._left_behind = False
        self._settled = threading.Barrier(len(tasks) + 1)
        self._threads = [
            threading.Thread(target=self._run, args=(task, slot), name=f"clip-data-{number}", daemon=True)
            for number, (task, slot) in enumerate(zip(tasks, self.slots, strict=True))
        ]
        team = torch.get_num_threads()
        for thread in self._threads:
            thread.start()
        self._settled.wait()
        torch.set_num_threads(team)

    def join(self, patience: float) -> None:
        """Wait until all of them have ended, which their work must have been told to do.

        Args:
            patience: seconds after which those that still run are left behind, for good; a read may hang.
        """
        deadline = time.monotonic() + (0.0 if self._left_behind else patience)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._left_behind = any(thread.is_alive() for thread in self._threads)

    def _run(self, task: Callable[[Slot], None], slot: Slot) -> None:
        # The number is per thread, but also what threads begin with that have not asked yet. So: ask first, which
        # settles ours, then set it; once all have, the main thread sets it back for everybody else.
        torch.get_num_threads()
        torch.set_num_threads(1)
        self._settled.wait()
        task(slot)
