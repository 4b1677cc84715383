"""The worker processes of one agent: start, watch, stop, and pass on what they print.

Each worker leads a session of its own, so its whole process group can be killed. Nothing a worker started survives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from clip_trainer.elastic.policy import Failure

_POLL = 0.02
_LONGEST_LINE = 1 << 16
_OUTPUT_DRAIN = 2.0
_ERROR = b"error: "
_LONGEST_WORDS = 1000  # Kubernetes keeps 4096 bytes of a termination message
_LONGEST_KILL = 30.0


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


@dataclass
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    reader: threading.Thread = field(init=False)
    ended_at: float | None = None
    last_words: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid


class Workers:
    """The processes of one round. Use from the main thread only: their death signal is tied to the starting thread.

    Args:
        command: program and arguments, the same for every worker.
        sink: where their output goes.
        clock: monotonic seconds.
    """

    def __init__(self, command: Sequence[str], sink: LineSink, clock: Callable[[], float] = time.monotonic) -> None:
        self._command = list(command)
        self._sink = sink
        self._clock = clock
        self._workers: list[_Worker] = []

    def start(self, environments: Mapping[int, Mapping[str, str]]) -> None:
        """Start one worker per global rank, each with its own environment. All earlier ones must have ended."""
        assert all(worker.ended_at is not None for worker in self._workers)
        self._workers = []
        for rank, environment in environments.items():
            process = subprocess.Popen(
                self._command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            worker = _Worker(rank, process)
            worker.reader = threading.Thread(target=self._copy_output, args=(worker,), daemon=True)
            worker.reader.start()
            self._workers.append(worker)

    @property
    def started(self) -> bool:
        """Whether there has been a round at all."""
        return bool(self._workers)

    @property
    def pids(self) -> dict[int, int]:
        """Pid by global rank of the workers that still run."""
        return {worker.rank: worker.pid for worker in self._workers if worker.ended_at is None}

    def poll(self) -> bool:
        """Look which workers have ended; True while at least one still runs."""
        for worker in self._workers:
            if worker.ended_at is None and _has_ended(worker.pid):
                # Not reaped yet, so the process group id cannot belong to anybody else.
                _kill_group(worker.pid, signal.SIGKILL)
                worker.process.wait()
                worker.ended_at = self._clock()
        return any(worker.ended_at is None for worker in self._workers)

    @property
    def failures(self) -> list[Failure]:
        """Workers that ended with another status than 0."""
        return [
            Failure(worker.rank, worker.process.returncode, worker.ended_at)
            for worker in self._workers
            if worker.ended_at is not None and worker.process.returncode != 0
        ]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the workers themselves (not to what they started)."""
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait for all to end, at most `seconds` or until `until()`; True if all have."""
        deadline = self._clock() + seconds
        while self.poll():
            if self._clock() >= deadline or until():
                return False
            time.sleep(_POLL)
        return True

    def kill(self) -> None:
        """SIGKILL whatever still runs, and finish passing on what was printed."""
        for pid in self.pids.values():
            _kill_group(pid, signal.SIGKILL)
        # Bounded: a process in uninterruptible sleep (a wedged device) cannot be killed, and the agent must end too.
        self.wait(_LONGEST_KILL)
        for worker in self._workers:
            worker.reader.join(_OUTPUT_DRAIN)

    def last_words(self, rank: int) -> str:
        """The last `error: ...` line that the worker printed, without that prefix; empty if there is none."""
        return next((worker.last_words for worker in self._workers if worker.rank == rank), "")

    def _copy_output(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        prefix = f"[rank {worker.rank}] ".encode()
        with worker.process.stdout as stream:
            while line := stream.readline(_LONGEST_LINE):
                self._sink.write(prefix, line)
                if line.startswith(_ERROR):
                    worker.last_words = line[len(_ERROR) :].decode(errors="replace").strip()[:_LONGEST_WORDS]


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _kill_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
