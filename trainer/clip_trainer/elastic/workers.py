"""One worker process of an agent: start, watch, stop, and pass on what it prints.

A worker leads a session of its own, so its whole process group can be killed. Nothing a worker started survives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from clip_trainer.elastic.beacon import ENV_BEACON, Reading, read_beacon

_LONGEST_LINE = 1 << 16
_OUTPUT_DRAIN = 2.0
_ERROR = b"error: "
_LONGEST_WORDS = 1000  # Kubernetes keeps 4096 bytes of a termination message


class LineSink:
    """Writes whole lines of several workers to one stream, each with its prefix."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, prefix: bytes, line: bytes) -> None:
        """Write one line; a broken stream (nobody reads our logs) must not stop the training."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(prefix + line.rstrip(b"\r\n") + b"\n")
            self._stream.flush()


class Worker:
    """A started process. Use from the main thread only: its death signal is tied to the thread that started it.

    Args:
        slot: its number on this node; the name of its lines until it has a rank.
        command: program and arguments.
        environment: all of it; the file named by `CLIPCTL_BEACON` is its beacon.
        sink: where its output goes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        slot: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        sink: LineSink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slot = slot
        self._sink = sink
        self._clock = clock
        self._beacon = Path(environment[ENV_BEACON]) if ENV_BEACON in environment else None
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._last_words = ""
        self.ended_at: float | None = None
        """When its end was noticed, monotonic seconds; None while it runs."""
        self._reader = threading.Thread(target=self._copy_output, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group's."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.ended_at is None and _has_ended(self.pid):
            # Not reaped yet, so the process group id cannot belong to anybody else.
            _kill_group(self.pid)
            self._process.wait()
            self.ended_at = self._clock()
        return None if self.ended_at is None else self._process.returncode

    def reading(self) -> Reading | None:
        """What its beacon says; None if it has none yet."""
        return None if self._beacon is None else read_beacon(self._beacon)

    def state(self) -> str:
        """The state letter of its process; X once it has ended."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "X"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker itself, not to what it started. Nothing happens if it has ended."""
        if self.ended_at is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL its process group; `poll` tells when that has had its effect."""
        if self.ended_at is None:
            _kill_group(self.pid)

    def last_words(self) -> str:
        """The last `error: ...` line it printed, without that prefix; empty if there is none. For an ended worker."""
        self._reader.join(_OUTPUT_DRAIN)
        return self._last_words

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while line := stream.readline(_LONGEST_LINE):
                self._sink.write(f"[{self._name()}] ".encode(), line)
                if line.startswith(_ERROR):
                    self._last_words = line[len(_ERROR) :].decode(errors="replace").strip()[:_LONGEST_WORDS]

    def _name(self) -> str:
        # Asked for every line: a worker has no rank when it starts, and another one in the next generation.
        return worker_name(self._slot, self.reading())


def worker_name(slot: int, reading: Reading | None) -> str:
    """What reports call a worker: its rank, or its number on this node while it has none."""
    return f"local rank {slot}" if reading is None or reading.rank < 0 else f"rank {reading.rank}"


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
