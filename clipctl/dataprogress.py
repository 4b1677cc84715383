"""Shows how far reading or writing a data set is, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from clipctl.output import clean, size

if TYPE_CHECKING:
    from clip_trainer.data.progress import ProgressEvent

_ON_TERMINAL_SECONDS = 0.2
_ELSEWHERE_SECONDS = 10.0


class ProgressLine:
    """A line that is rewritten in place on a terminal, and printed now and then elsewhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._live = sys.stderr.isatty()
        self._every = _ON_TERMINAL_SECONDS if self._live else _ELSEWHERE_SECONDS
        self._shown_at = clock()
        self._width = 0

    def __call__(self, event: ProgressEvent) -> None:
        """Show the event if the last one was shown long enough ago."""
        if self._clock() - self._shown_at < self._every:
            return
        self._shown_at = self._clock()
        text = clean(f"{event.stage}: {event.done}/{event.total}, {size(event.bytes_done)} {event.item}")
        if self._live:
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr)

    def close(self) -> None:
        """Clear the line."""
        if self._live and self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
