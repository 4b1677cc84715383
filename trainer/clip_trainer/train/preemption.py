"""SIGTERM means: the machine goes away soon. The loop finishes its step, all ranks agree, a checkpoint is written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from clipctl.contract.errors import TryAgainError


class PreemptionNotice:
    """Remembers that SIGTERM or SIGINT arrived; a second one changes nothing, so a save is never interrupted."""

    def __init__(self) -> None:
        self.received = False
        self._interrupts = False

    def install(self) -> None:
        """Handle the signals from now on (main thread only)."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside this context the process has nothing to save, so a notice ends it at once.

        Raises:
            TryAgainError: the notice came, before or during the context.
        """
        self._interrupts = True
        try:
            if self.received:
                raise _stopped()
            yield
        finally:
            self._interrupts = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._interrupts:
            self._interrupts = False
            raise _stopped()


def _stopped() -> TryAgainError:
    return TryAgainError("stopped on request between two groups; everything that was committed is safe.")
