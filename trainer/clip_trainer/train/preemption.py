"""SIGTERM means: the machine goes away soon. The loop finishes its step, all ranks agree, a checkpoint is written."""

from __future__ import annotations

import signal
from types import FrameType


class PreemptionNotice:
    """Remembers that SIGTERM or SIGINT arrived; a second one changes nothing, so a save is never interrupted."""

    def __init__(self) -> None:
        self.received = False

    def install(self) -> None:
        """Handle the signals from now on (main thread only)."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
