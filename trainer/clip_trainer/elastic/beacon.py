"""What this worker is doing right now, in a small file that its agent watches.

A worker that hangs cannot say so. It therefore keeps a beacon: which phase it is in since when, whether it waits for
other ranks, and a heartbeat that a thread stamps every half second. A stopped process, or an extension that holds the
interpreter lock, shows as an old heartbeat; an endless wait inside one rank shows as a phase that does not end.
`watchdog` judges what it reads here.

The file is mapped into memory, so a change costs about a microsecond and works while the disk does not. Times are
CLOCK_MONOTONIC, which all processes of a host share. Two records are written by one thread each, with the same
sequence number in front and behind; a reader that meets a half-written record sees two different ones and looks again.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ENV_BEACON: Final = "CLIPCTL_BEACON"
HEARTBEAT_SECONDS: Final = 0.5

Phase = Literal["start", "idle", "data", "compute", "save", "evaluate", "finish"]
PHASES: Final[tuple[Phase, ...]] = ("start", "idle", "data", "compute", "save", "evaluate", "finish")
"""start: imports, devices, model; idle: waiting for the next generation of the group; data: waiting for a batch;
compute: an optimiser step; save, evaluate; finish: after the last step. Waiting for other ranks is apart from these."""

_MAGIC = b"CLIPBCN1"
_BEAT = struct.Struct("=QdQ")  # sequence, heartbeat, sequence
_BEAT_AT = len(_MAGIC)
_STATE = struct.Struct("=QqqqqqqdddQ")  # sequence, phase, step, steps, generation, rank, waiting, three times, sequence
_STATE_AT = _BEAT_AT + _BEAT.size
_SIZE = _STATE_AT + _STATE.size
_FADE = 0.9
_LOOKS = 100


@dataclass(frozen=True)
class Reading:
    """One look at a beacon. Times are seconds of CLOCK_MONOTONIC."""

    phase: Phase
    since: float
    """Begin of the phase."""
    changed: float
    """The last sign of life of the main thread: begin of the phase, or of the wait for peers, or that wait's end."""
    waiting: bool
    """Whether it waits for other ranks now."""
    heartbeat: float
    step: int = -1
    """-1: none yet."""
    generation: int = 0
    """0: not in the group yet."""
    rank: int = -1
    longest: float = 0.0
    """Seconds of the longest stretch of computing between two signs of life so far, fading by a tenth per step: the
    first step may compile for minutes, which says nothing about the thousandth. 0: nothing computed yet."""
    steps: int = 0
    """Optimiser steps that this process has completed."""

    @property
    def doing(self) -> str:
        """The phase in words, `collective` while it waits for peers."""
        return "collective" if self.waiting else self.phase


class _Waiting:
    """`with` block that marks a wait for peers; one object serves all, nested ones included.

    Attributes:
        seconds: spent in such waits so far.
    """

    def __init__(
        self, enter: Callable[[], None], leave: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = 0.0
        self._enter = enter
        self._leave = leave
        self._clock = clock
        self._depth = 0
        self._since = 0.0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._since = self._clock()
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._clock() - self._since


class Beacon:
    """A beacon that nobody watches: every method does nothing. `FileBeacon` is the other one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting = _Waiting(self._start_waiting, self._stop_waiting, clock)

    def phase(self, name: Phase, step: int | None = None) -> None:
        """Say what the main thread begins to do, and for which optimiser step (None: the same as before)."""

    def entered(self, generation: int, rank: int) -> None:
        """Say which rank this worker has in which generation, so that reports can name it."""

    def waiting_for_peers(self) -> _Waiting:
        """Use as `with beacon.waiting_for_peers():` around every collective. Nesting is harmless."""
        return self._waiting

    @property
    def waited(self) -> float:
        """Seconds this process has waited for peers so far: what a step took without it is the rank's own time."""
        return self._waiting.seconds

    def close(self) -> None:
        """Stop the heartbeat and let go of the file."""

    def _start_waiting(self) -> None:
        pass

    def _stop_waiting(self) -> None:
        pass


class FileBeacon(Beacon):
    """A beacon in a file. All methods but `beat` are for the main thread.

    Args:
        path: the file, replaced if it exists.
        clock: CLOCK_MONOTONIC seconds.

    Raises (constructor): OSError if the file cannot be made.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._clock = clock
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._ended = threading.Event()
        self._beats = self._changes = self._depth = self._generation = 0
        self._phase, self._step, self._steps, self._rank, self._longest = PHASES.index("start"), -1, 0, -1, 0.0
        self._since = self._changed = clock()
        self.beat()
        self._store()
        self._memory[: len(_MAGIC)] = _MAGIC  # last: from now on there is something to read

    def start_heartbeat(self, seconds: float = HEARTBEAT_SECONDS) -> None:
        """Stamp the heartbeat from a thread until `close`."""
        threading.Thread(target=self._keep_beating, args=(seconds,), name="beacon", daemon=True).start()

    def beat(self) -> None:
        """Stamp the heartbeat once."""
        self._beats += 1
        _BEAT.pack_into(self._memory, _BEAT_AT, self._beats, self._clock(), self._beats)

    def phase(self, name: Phase, step: int | None = None) -> None:
        """See `Beacon.phase`."""
        self._move()
        self._phase = PHASES.index(name)
        self._since = self._changed
        if step is not None and step != self._step:
            self._step = step
            self._steps += self._longest > 0.0  # else the first one is only about to begin
            self._longest *= _FADE
        self._store()

    def entered(self, generation: int, rank: int) -> None:
        """See `Beacon.entered`."""
        self._generation, self._rank = generation, rank
        self._move()
        self._store()

    def close(self) -> None:
        """See `Beacon.close`. The file keeps the last state."""
        self._ended.set()

    def _start_waiting(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._move()
            self._store()

    def _stop_waiting(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._changed = self._clock()  # not `_move`: what has ended is a wait, not computing
            self._store()

    def _move(self) -> None:
        now = self._clock()
        if PHASES[self._phase] == "compute":
            self._longest = max(now - self._changed, self._longest)
        self._changed = now

    def _store(self) -> None:
        self._changes += 1
        _STATE.pack_into(
            self._memory,
            _STATE_AT,
            self._changes,
            self._phase,
            self._step,
            self._steps,
            self._generation,
            self._rank,
            self._depth > 0,
            self._since,
            self._changed,
            self._longest,
            self._changes,
        )

    def _keep_beating(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.beat()


_current: Beacon = Beacon()


def current() -> Beacon:
    """This process's beacon, so that code deep inside a step can say that it waits. Does nothing without an agent."""
    return _current


def beacon_from_environment(environment: Mapping[str, str] | None = None) -> Beacon:
    """Make this process's beacon with its heartbeat, once; later calls return the same one.

    Without `CLIPCTL_BEACON`, or if that file cannot be made, the result is a beacon that does nothing: nobody watches.
    """
    global _current
    name = (os.environ if environment is None else environment).get(ENV_BEACON)
    if name and not isinstance(_current, FileBeacon):
        try:
            beacon = FileBeacon(Path(name))
        except OSError:
            return _current
        beacon.start_heartbeat()
        _current = beacon
    return _current


def read_beacon(path: Path) -> Reading | None:
    """Read a worker's beacon; None if there is none (yet), or if it changes too fast to be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for _ in range(_LOOKS):
            reading = _look(descriptor)
            if reading is not None:
                return reading
    finally:
        os.close(descriptor)
    return None


def _look(descriptor: int) -> Reading | None:
    if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
        return None
    beat = _record(descriptor, _BEAT, _BEAT_AT)
    state = _record(descriptor, _STATE, _STATE_AT)
    if beat is None or state is None:
        return None
    phase, step, steps, generation, rank, waiting = map(int, state[:6])
    since, changed, longest = state[6:]
    return Reading(PHASES[phase], since, changed, bool(waiting), beat[0], step, generation, rank, longest, steps)


def _record(descriptor: int, form: struct.Struct, offset: int) -> tuple[float, ...] | None:
    """One record without its sequence numbers; None if it was being written.

    The writer goes from front to back. Reading the number behind first, and the one in front last, finds every mixture.
    """
    size = struct.calcsize("=Q")
    behind = os.pread(descriptor, size, offset + form.size - size)
    _, *body, _ = form.unpack(os.pread(descriptor, form.size, offset))
    in_front = os.pread(descriptor, size, offset)
    return tuple(body) if behind == in_front and any(behind) else None
