"""Long-running processes recorded by id and start time, so that stopping never hits a stranger with a reused id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_testkit.cluster.shell import Argument, tail
from clipctl.contract.errors import UnavailableError


def start_ticks(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Start time of a live process in clock ticks since boot; None if it is gone or a zombie.

    Field 22 of `/proc/PID/stat` (proc(5)); the command name before it may itself hold spaces and parentheses.
    """
    try:
        text = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Registry:
    """The processes of one cluster.

    Attributes:
        records: directory with one JSON record a process.
        logs: directory with one log a process.
    """

    records: Path
    logs: Path

    def start(self, name: str, argv: Sequence[Argument], *, cwd: Path | None = None) -> None:
        """Start a process in a session of its own, its output in its log."""
        self.records.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in argv],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = {"pid": process.pid, "start": start_ticks(process.pid)}
        self._record(name).write_text(json.dumps(record))
        process.returncode = 0  # The record owns it from here: silence Popen's warning about a running child.

    def names(self) -> list[str]:
        """Names of all processes that were started and not stopped."""
        return sorted(path.stem for path in self.records.glob("*.json"))

    def pid(self, name: str) -> int | None:
        """Id of a process that still runs; None otherwise."""
        try:
            record = json.loads(self._record(name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        _reap(record["pid"])
        alive = record["start"] is not None and start_ticks(record["pid"]) == record["start"]
        return int(record["pid"]) if alive else None

    def require_alive(self, *names: str) -> None:
        """Raise if one of the processes ended.

        Raises:
            UnavailableError: with the end of its log.
        """
        for name in names:
            if self.pid(name) is None:
                raise UnavailableError(f"{name} ended: {self.log_tail(name)}")

    def log_tail(self, name: str) -> str:
        """The end of a process's log, empty if there is none."""
        try:
            return tail(self._log(name).read_text(errors="replace"))
        except FileNotFoundError:
            return ""

    def stop(self, *names: str, grace: float = 10.0) -> None:
        """Terminate processes together, kill those that outlive `grace` seconds, and forget them."""
        for name in names:
            self._send(name, signal.SIGTERM)
        deadline = time.monotonic() + grace
        for name in names:
            while self.pid(name) is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            self._send(name, signal.SIGKILL)
            self._record(name).unlink(missing_ok=True)

    def _send(self, name: str, number: int) -> None:
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _record(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _reap(pid: int) -> None:
    """Collect a child of ours that ended; a process started by another run of the tool is not our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
