"""One place for a worker on a node: starts it, watches it, and starts the next one when it has failed.

Slots know nothing of each other, so one worker is replaced while its neighbours keep training. Nothing here waits: the
agent calls `look` and `start_if_due` again and again.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from clip_trainer.elastic.beacon import Reading
from clip_trainer.elastic.policy import Diagnosis, Failure, RestartBudget
from clip_trainer.elastic.watchdog import Hang, HealthLimits, Watch
from clip_trainer.elastic.workers import worker_name
from clipctl.contract.errors import ExitCode
from clipctl.contract.failpoints import failpoint

LOOK_SECONDS = 0.25
"""Time between two looks at the beacon. The process itself is looked at every time."""
DUMP_SECONDS = 0.5
"""What a hanging worker gets to write all its stacks into the log."""


class Process(Protocol):
    """The part of `Worker` that a slot uses."""

    ended_at: float | None

    @property
    def pid(self) -> int:
        """Process id."""
        ...

    def poll(self) -> int | None:
        """Exit status; None while it runs."""
        ...

    def reading(self) -> Reading | None:
        """What its beacon says."""
        ...

    def state(self) -> str:
        """State letter of the process."""
        ...

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        ...

    def kill(self) -> None:
        """SIGKILL all of it."""
        ...

    def last_words(self) -> str:
        """Its last error, once all it has printed is copied."""
        ...


@dataclass
class SlotHooks:
    """What a slot needs from its agent.

    Attributes:
        spawn: starts a worker, by slot and number of the start.
        committed: newest safely stored step, -1 if none.
        log: takes one line.
    """

    spawn: Callable[[int, int], Process]
    committed: Callable[[], int]
    log: Callable[[str], None]


class Slot:
    """See the module's docstring.

    Args:
        number: of the slot on this node.
        max_restarts: restarts without progress in between.
        limits: of the watchdog.
        hooks: the outside world.
    """

    def __init__(self, number: int, max_restarts: int, limits: HealthLimits, hooks: SlotHooks) -> None:
        self.number = number
        self.budget = RestartBudget(max_restarts)
        self.starts = 0
        self._limits = limits
        self._hooks = hooks
        self._process: Process | None = None
        self._due = -math.inf
        self._done = False
        self._watch: Watch | None = None
        self._next_look = -math.inf
        self._entered_at: int | None = None  # newest stored step when this worker came into the group
        self._hang: Hang | None = None
        self._kill_at = math.inf

    @property
    def pid(self) -> int | None:
        """Process id of the worker that runs; None if there is none."""
        return None if self._process is None else self._process.pid

    @property
    def done(self) -> bool:
        """Whether its worker has ended with status 0."""
        return self._done

    def start_if_due(self, now: float) -> None:
        """Start a worker, unless one runs, has finished, or the time has not come."""
        if self._process is not None or self._done or now < self._due:
            return
        self.starts += 1
        self._entered_at, self._hang, self._kill_at = None, None, math.inf
        self._watch = Watch(self._limits, started=now)
        self._next_look = now + LOOK_SECONDS
        failpoint("elastic.spawn")
        self._process = self._hooks.spawn(self.number, self.starts)

    def look(self, now: float) -> Failure | None:
        """See whether the worker still runs and still moves; the failure of one that has just ended badly."""
        if self._process is None:
            return None
        status = self._process.poll()
        if status is not None:
            return self._ended(self._process, status)
        if now >= self._kill_at:
            self._process.kill()
        elif self._hang is None and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._examine(self._process, now)
        return None

    def restart(self, diagnosis: Diagnosis, now: float) -> bool:
        """Plan the next start after a failure; False if the budget is used up."""
        if not self.budget.spend(diagnosis):
            return False
        self._due = now + self.budget.backoff
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if one runs."""
        if self._process is not None:
            self._process.send(number)

    def kill(self) -> None:
        """SIGKILL the worker, if one runs; `look` tells when it is gone."""
        if self._process is not None:
            self._process.kill()

    def _examine(self, process: Process, now: float) -> None:
        reading = process.reading()
        self._note_progress(reading)
        assert self._watch is not None
        self._hang = self._watch.look(reading, now, process.state())
        if self._hang is None:
            return
        name = worker_name(self.number, reading)
        self._hooks.log(f"{name} hangs: {self._hang}. It writes its stacks, then it is killed.")
        # A stopped process writes them only once it continues; the little it does until it is killed is no worse than
        # what any other worker does.
        failpoint("elastic.hang_found")
        process.send(signal.SIGUSR1)
        process.send(signal.SIGCONT)
        self._kill_at = now + DUMP_SECONDS

    def _ended(self, process: Process, status: int) -> Failure | None:
        reading = process.reading()
        self._note_progress(reading)
        # Asked of those that ended well too: it waits until their output is copied, and the agent may end next.
        words = process.last_words()
        self._process = None
        assert process.ended_at is not None
        if status == 0:
            self._done = True
            return None
        rank = -1 if reading is None else reading.rank
        name = worker_name(self.number, reading)
        if self._hang is not None:
            return Failure(rank, ExitCode.HUNG, process.ended_at, name, str(self._hang))
        return Failure(rank, status, process.ended_at, name, words)

    def _note_progress(self, reading: Reading | None) -> None:
        """Only what became safe with this worker in the group is its progress.

        Its neighbours may store step after step while it fails again and again at joining them.
        """
        if reading is None or reading.generation == 0:
            return
        committed = self._hooks.committed()
        if self._entered_at is None:
            self._entered_at = committed
        if committed > self._entered_at:
            self.budget.note_progress(committed)
