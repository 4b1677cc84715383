"""Something that takes log entries, kept apart from training: its slowness and its failures stay its own.

Each log lives in a thread of its own. Opening it, writing and uploading may take long or fail; training only puts
entries into a queue, and hears of the first problem once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from clip_trainer.log.scalars import Scalars
from clipctl.contract.errors import ClipError

CAPACITY = 1000
"""Entries that wait at most; further ones are dropped."""
CLOSE_SECONDS = 20.0
"""How long the end of a run waits for a log."""


class Log(Protocol):
    """A destination. Methods are called from one thread, in order.

    What they raise is told once and never ends the run: a `ClipError` is taken for an outage of the storage, after
    which the log is asked again; anything else ends the log.
    """

    def train(self, scalars: Scalars, step: int) -> None:
        """Take the scalars of a training step; steps count from 0, as OpenCLIP's do."""
        ...

    def evaluation(self, scalars: Scalars, step: int, epoch: int | None) -> None:
        """Take the scalars of an evaluation after `step` steps; `epoch` if the axis is epochs."""
        ...

    def flush(self) -> None:
        """Store what has come in if it is time to."""
        ...

    def close(self) -> None:
        """Store everything."""
        ...


class Channel:
    """The thread and queue in front of one log.

    Args:
        name: for messages.
        open_log: makes the log; called in the thread.
    """

    def __init__(self, name: str, open_log: Callable[[], Log]) -> None:
        self.name = name
        self._open = open_log
        self._queue: queue.Queue[Callable[[Log], None] | None] = queue.Queue(CAPACITY)
        self._problem: str | None = None
        self._outage = False
        self._thread = threading.Thread(target=self._work, name=f"log-{name}", daemon=True)
        self._thread.start()

    def put(self, action: Callable[[Log], None]) -> None:
        """Let the log do something later."""
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._problem = self._problem or f"{self.name} does not keep up; entries are dropped"

    def take_problem(self) -> str | None:
        """What went wrong, the first time somebody asks after it did."""
        problem, self._problem = self._problem, None
        return problem

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Store everything, for at most `seconds`; what is not stored by then is lost."""
        self.put(lambda log: log.close())
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            log = self._open()
            while (action := self._queue.get()) is not None:
                self._do(action, log)
        except Exception as error:
            self._problem = f"{self.name} stopped logging: {type(error).__name__}: {error}"
            self._drain()

    def _do(self, action: Callable[[Log], None], log: Log) -> None:
        try:
            action(log)
            log.flush()
        except ClipError as error:  # storage is away for a while; the log keeps what it could not store
            if not self._outage:
                self._problem = f"{self.name}: {error}"
            self._outage = True

    def _drain(self) -> None:
        """Nobody takes entries any more; they must not pile up."""
        while self._queue.get() is not None:
            pass
