"""One piece of work at a time on a thread that yields to training, and that can be told to give up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from clipctl.contract.errors import TryAgainError

_NICE = 10


class AbandonedError(TryAgainError):
    """The work is not wanted any more."""


class Cancellation:
    """Told to one piece of work. Threads may ask at any time."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Let `check` raise from now on."""
        self._event.set()

    def check(self) -> None:
        """Raise `AbandonedError` if the work is not wanted any more."""
        if self._event.is_set():
            raise AbandonedError("the checkpoint was given up, because the group of ranks has changed.")

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the work. Raises `AbandonedError` like `check`."""
        self._event.wait(seconds)
        self.check()


class Background:
    """Runs one function at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a function is running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread of its own, which does not keep the process from ending."""
        assert not self.busy
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of what is running, at most `seconds`; whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy


def yield_to_training() -> None:
    """Give this thread a lower priority than those that train. On Linux threads have one each."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
