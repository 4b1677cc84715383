"""Does a worker hang? Judged from its beacon, for phases in which it depends on nobody else.

Two signs: the heartbeat is old (the process is stopped, or something holds the interpreter lock), or a phase has lasted
longer than it can. How long that is:

- compute: `hang_seconds`, or 20 times the longest computing of the recent steps if that is more. During the first steps
  of a process, as long as starting may take: compilers, autotuners and late imports need minutes then.
- data: 10 minutes; the loader reports stalls itself, and ends the run for errors that do not go away.
- save 30, evaluate 60, finish 30, start 15 minutes.
- idle (waiting for the next generation of the group) and waiting for peers: never. A victim that waits for the rank
  that hangs must not be killed in its place; the process group's timeout ends a wait that is in vain.

The heartbeat counts in every phase. While a worker starts it may be a minute old, because imports hold the interpreter
lock for long. A process in uninterruptible sleep is never judged: it waits for a device or a disk, and killing it would
not end it before that answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from clip_trainer.elastic.beacon import Phase, Reading

COMPUTE_FACTOR = 20.0
FIRST_STEPS = 3
_UNJUDGED_STATES = frozenset("DtZX")  # of /proc/PID/stat: disk sleep, held by a debugger, ended
_LATE_SECONDS = 2.0
_CONFIRM_SECONDS = 5.0


@dataclass(frozen=True)
class HealthLimits:
    """Seconds after which a worker counts as hanging."""

    hang_seconds: float = 10.0
    """Age of the heartbeat, and least limit of a step's computing; `health.hang_seconds` of run.yaml."""
    start_seconds: float = 900.0
    start_heartbeat_seconds: float = 60.0
    data_seconds: float = 600.0
    save_seconds: float = 1800.0
    evaluate_seconds: float = 3600.0
    finish_seconds: float = 1800.0

    def heartbeat(self, phase: Phase) -> float:
        """Oldest heartbeat of a living worker in `phase`."""
        return max(self.hang_seconds, self.start_heartbeat_seconds) if phase == "start" else self.hang_seconds

    def duration(self, reading: Reading) -> float:
        """How long the main thread of this worker may go without a sign of life."""
        if reading.waiting or reading.phase == "idle":
            return math.inf
        if reading.phase == "compute":
            usual = max(self.hang_seconds, COMPUTE_FACTOR * reading.longest)
            return usual if reading.steps >= FIRST_STEPS else max(usual, self.start_seconds)
        limits: dict[Phase, float] = {
            "start": self.start_seconds,
            "data": self.data_seconds,
            "save": self.save_seconds,
            "evaluate": self.evaluate_seconds,
            "finish": self.finish_seconds,
        }
        return limits[reading.phase]


@dataclass(frozen=True)
class Hang:
    """A worker hangs: what it was doing, for how many seconds nothing was heard of it, and how that shows."""

    doing: str
    step: int
    seconds: float
    sign: str

    def __str__(self) -> str:
        where = f"{self.doing} at step {self.step}" if self.step >= 0 else self.doing
        return f"{self.sign} for {self.seconds:.1f} s in {where}"


def judge(reading: Reading, now: float, limits: HealthLimits, state: str = "S") -> Hang | None:
    """Whether the worker with this beacon hangs.

    Args:
        reading: its beacon.
        now: CLOCK_MONOTONIC seconds.
        limits: what is too long.
        state: state letter of its process, as in /proc/PID/stat.
    """
    if state in _UNJUDGED_STATES:
        return None
    silent = now - reading.heartbeat
    if silent > limits.heartbeat(reading.phase):
        return Hang(reading.doing, reading.step, silent, "no heartbeat")
    still = now - reading.changed
    if still > limits.duration(reading):
        return Hang(reading.doing, reading.step, still, "no progress")
    return None


def judge_start(started: float, now: float, limits: HealthLimits) -> Hang | None:
    """Whether a worker without any beacon, started at `started`, should have one by now."""
    age = now - started
    return Hang("start", -1, age, "no beacon") if age > limits.start_seconds else None


@dataclass
class Watch:
    """One worker's verdicts over time, careful about the observer itself.

    If the whole machine was suspended, or had no time for the agent either, every heartbeat is old at the next look.
    After a late look nobody is judged for some seconds. A verdict must be found twice.
    """

    limits: HealthLimits
    started: float
    """When the worker was started, monotonic seconds."""
    _looked: float = field(init=False)
    _blind_until: float = field(init=False, default=-math.inf)
    _suspected: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._looked = self.started

    def look(self, reading: Reading | None, now: float, state: str = "S") -> Hang | None:
        """The verdict on this look, once it is certain."""
        if now - self._looked > _LATE_SECONDS:
            self._blind_until = now + _CONFIRM_SECONDS
        self._looked = now
        if now < self._blind_until:
            return None
        found = (
            judge_start(self.started, now, self.limits) if reading is None else judge(reading, now, self.limits, state)
        )
        confirmed = found if self._suspected else None
        self._suspected = found is not None
        return confirmed
