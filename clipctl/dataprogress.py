"""Shows how far reading or writing a data set is, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from clipctl.output import clean, duration, size

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
        self._first: tuple[float, ProgressEvent] | None = None  # of the stage

    def __call__(self, event: ProgressEvent) -> None:
        """Show the event if the last one was shown long enough ago."""
        now = self._clock()
        if self._first is None or self._first[1].stage != event.stage:
            self._first = (now, event)
        if now - self._shown_at < self._every:
            return
        self._shown_at = now
        speed = _speed(event, *self._first, now)
        text = clean(f"{event.stage}: {event.done}/{event.total}, {size(event.bytes_done)}{speed} {event.item}")
        if self._live:
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr)

    def close(self) -> None:
        """Clear the line."""
        if self._live and self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)


def _speed(event: ProgressEvent, since: float, first: ProgressEvent, now: float) -> str:
    """How many are done in a second, and how long the rest takes; counted from the first event of the stage.

    Not from zero: work that is taken up again starts with much of it done.
    """
    done, seconds = event.done - first.done, now - since
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    return f", {rate:.3g}/s, {duration((event.total - event.done) / rate)} left"
