"""Shows how far a download is, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipctl.output import note, size

if TYPE_CHECKING:
    from clip_trainer.pretrained.download import DownloadProgress

_ELSEWHERE_SECONDS = 10.0


class DownloadBar:
    """The progress callback of `clipctl models`; a context manager.

    Args:
        clock: seconds, for the lines.
        live: whether to draw a bar. Default: if standard error is a terminal.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, live: bool | None = None) -> None:
        self._clock = clock
        self._live = sys.stderr.isatty() if live is None else live
        self._shown_at = clock()
        self._bars: Any = None  # made when the first byte arrives: what is in the cache shows nothing
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: DownloadProgress) -> None:
        """Show it."""
        if progress.waiting:
            note(f"another process is fetching {progress.name}; waiting for it")
        elif self._live:
            self._draw(progress)
        elif self._clock() - self._shown_at >= _ELSEWHERE_SECONDS:
            self._shown_at = self._clock()
            of = "" if progress.total is None else f" of {size(progress.total)}"
            note(f"{progress.name}: {size(progress.done)}{of}")

    def _draw(self, progress: DownloadProgress) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if progress.name not in self._tasks:
            self._tasks[progress.name] = self._bars.add_task(progress.name[:40], total=progress.total)
        self._bars.update(self._tasks[progress.name], completed=progress.done, total=progress.total)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    texts = [TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns]
    return Progress(*texts, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
