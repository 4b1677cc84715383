"""Follows a run until it ends, showing its progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from clipctl.backends.base import Backend, Progress, RunStatus
from clipctl.contract import layout, names
from clipctl.contract.errors import ClipError, ExitCode
from clipctl.contract.store import ObjectStore, open_store
from clipctl.output import clean, note
from clipctl.runstorage import storage_environment, within
from clipctl.statusview import progress_line

_ENDED = frozenset({*names.TERMINAL_STATES, names.STATE_STOPPED})
_READ_SECONDS = 5.0


class Display(Protocol):
    """Shows the progress of a run."""

    def update(self, status: RunStatus, progress: Progress) -> None:
        """Show the newest state."""
        ...

    def close(self) -> None:
        """Leave the terminal tidy."""
        ...


class PlainDisplay:
    """A line when the state changes, and a progress line every few seconds."""

    def __init__(self, every_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_seconds = every_seconds
        self._clock = clock
        self._state: tuple[str, ...] = ()
        self._line = ""
        self._printed_at = float("-inf")

    def update(self, status: RunStatus, progress: Progress) -> None:
        """See `Display.update`."""
        state = (status.state, status.reason, status.message)
        if state != self._state:
            self._state = state
            note(f"{status.name}: {state_line(status)}")
        due = self._clock() - self._printed_at >= self._every_seconds or status.state in _ENDED
        line = progress_line(progress)
        if due and progress.step is not None and line != self._line:
            self._line, self._printed_at = line, self._clock()
            note(f"{status.name}: {line}")

    def close(self) -> None:
        """See `Display.close`."""


class BarDisplay:
    """A live progress bar with loss, rate and time left; state changes are printed above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        self._console = Console(stderr=True)
        self._bar: Any = Progress(*columns, console=self._console, expand=True)
        self._task = self._bar.add_task("starting", total=None, facts="")
        self._state: tuple[str, ...] = ()
        self._bar.start()

    def update(self, status: RunStatus, progress: Progress) -> None:
        """See `Display.update`."""
        state = (status.state, status.reason, status.message)
        if state != self._state:
            self._state = state
            self._console.print(clean(f"{status.name}: {state_line(status)}"), markup=False, highlight=False)
        facts = progress_line(progress) if progress.step is not None else ""
        self._bar.update(
            self._task,
            description=clean(status.name),
            total=progress.total_steps,
            completed=progress.step or 0,
            facts=clean(facts),
        )

    def close(self) -> None:
        """See `Display.close`."""
        self._bar.stop()


def make_display() -> Display:
    """A bar if people watch, else lines."""
    return BarDisplay() if sys.stderr.isatty() else PlainDisplay()


def follow(
    backend: Backend,
    name: str,
    display: Display,
    *,
    poll_seconds: float = 1.0,
    sleep: Callable[[float], None] | None = None,
) -> RunStatus:
    """Show the run until it ends or is stopped; returns its last state."""
    store: ObjectStore | None = None
    pause = sleep or time.sleep
    try:
        while True:
            status = backend.status(name)
            store = store or _open(status)
            display.update(status, _progress(store, status))
            if status.state in _ENDED:
                return status
            pause(poll_seconds)
    finally:
        display.close()


def exit_code(status: RunStatus) -> int:
    """Exit status of a command that waited for the run."""
    if status.state == names.STATE_SUCCEEDED:
        return int(ExitCode.OK)
    if status.state == names.STATE_STOPPED:
        return int(ExitCode.TRY_AGAIN)
    known = {int(code) for code in ExitCode} - {0}
    return status.exit_code if status.exit_code in known and status.exit_code else int(ExitCode.INTERNAL)


def state_line(status: RunStatus) -> str:
    """State with its reason, in one line."""
    reason = f" ({status.reason})" if status.reason else ""
    return f"{status.state}{reason}{': ' + status.message if status.message else ''}"


def _open(status: RunStatus) -> ObjectStore | None:
    try:
        return open_store(status.run_root) if status.run_root else None
    except ClipError:
        return None


def _progress(store: ObjectStore | None, status: RunStatus) -> Progress:
    """The trainer's progress; nothing while its storage cannot be read."""
    if store is None:
        return Progress()
    reader = store
    try:
        with storage_environment(status.storage_env):
            found = within(_READ_SECONDS, lambda: reader.read_version(layout.STATUS), "the storage did not answer")
    except ClipError:
        return Progress()
    return Progress() if found is None else Progress.from_json(found[0])
