"""The agent of one node: keeps a worker in each of its slots until the run is over.

The workers find each other by themselves (`membership`); the agent only sees to it that they exist. A worker that dies
or hangs is replaced alone, its neighbours keep their processes and their state. The agent ends when all its workers
have finished, when the run is closed, when trying again cannot help any more, or when it is told to stop.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from clip_trainer.elastic.policy import Diagnosis, Failure, cause_of, diagnose
from clip_trainer.elastic.slot import Slot
from clipctl.contract import names
from clipctl.contract.errors import ExitCode
from clipctl.contract.failpoints import failpoint

TOGETHER_SECONDS = 5.0
"""A worker that lost a peer within this time of a neighbour's death is that death's victim."""
FINISH_SECONDS = 600.0
"""What our workers get to end by themselves after others have said that the run is complete."""
CLOSED_SECONDS = 10.0
"""The same after the run was closed with an error: nothing they do can still matter."""
KILL_SECONDS = 30.0
"""Longest wait for killed workers: one in uninterruptible sleep (a wedged device) does not go, but the agent must."""


@dataclass(frozen=True)
class Outcome:
    """How the agent ended: exit status and why. `exhausted`: restarting this container as well would not help."""

    code: int
    cause: str = ""
    rank: int = -1
    message: str = ""
    exhausted: bool = False


class Verdict(Protocol):
    """Whether the run is over for everybody. Both calls return at once, also while nobody answers."""

    def close(self, code: int) -> None:
        """End the run for everybody with exit code `code`; the first one to close decides."""
        ...

    def closed(self) -> int | None:
        """The code the run was closed with; None while it goes on."""
        ...


@dataclass
class Hooks:
    """The outside world of an agent, replaceable in tests.

    Attributes:
        verdict: of the run.
        oom_kills: the kernel's counter of out-of-memory kills.
        log: takes one line.
    """

    verdict: Verdict
    oom_kills: Callable[[], int]
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Agent:
    """See the module's docstring.

    Args:
        slots: places for workers.
        grace: seconds the workers get to write a checkpoint after SIGTERM.
        interval: seconds between two looks at the slots.
        hooks: the outside world.
    """

    def __init__(self, slots: Sequence[Slot], grace: float, interval: float, hooks: Hooks) -> None:
        self._slots = slots
        self._grace = grace
        self._interval = interval
        self._hooks = hooks
        self._stop = False
        self._recent: list[Failure] = []
        self._oom_kills = hooks.oom_kills()

    def request_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Checkpoint and end; usable as a signal handler. Repeating it changes nothing."""
        self._stop = True

    def run(self) -> Outcome:
        """Work until there is an outcome. No worker survives the return."""
        try:
            while True:
                outcome = self._turn()
                if outcome is not None:
                    return outcome
                self._hooks.sleep(self._interval)
        finally:
            self._kill()

    def _turn(self) -> Outcome | None:
        if self._stop:
            return self._stopped()
        code = self._hooks.verdict.closed()
        if code is not None:
            return self._closed(code)
        failures = self._look()
        if failures:
            outcome = self._handle(failures)
            if outcome is not None:
                return outcome
        if all(slot.done for slot in self._slots):
            return Outcome(ExitCode.OK, message="the run is complete")
        for slot in self._slots:
            slot.start_if_due(self._hooks.clock())
        return None

    def _look(self) -> dict[Slot, Failure]:
        now = self._hooks.clock()
        found = {slot: slot.look(now) for slot in self._slots}
        return {slot: failure for slot, failure in found.items() if failure is not None}

    # Failures

    def _handle(self, failures: dict[Slot, Failure]) -> Outcome | None:
        """Restart every slot whose worker has failed; an outcome if that cannot help."""
        now = self._hooks.clock()
        failpoint("elastic.worker_failed")
        self._recent = [failure for failure in self._recent if failure.at >= now - TOGETHER_SECONDS]
        self._recent += failures.values()
        killed_for_memory = self._new_oom_kill(failures)
        root = diagnose(self._recent, killed_for_memory=killed_for_memory)
        if root.permanent:
            return self._permanent(root)
        for slot, failure in failures.items():
            own = diagnose([failure], killed_for_memory=killed_for_memory)
            if not slot.restart(own, now):
                return self._exhausted(killed_for_memory)
            budget = slot.budget
            when = f"in {budget.backoff:g} s" if budget.backoff else "at once"
            self._hooks.log(f"{own.message}; restart {budget.used} of {budget.limit} without progress, {when}")
        return None

    def _new_oom_kill(self, failures: dict[Slot, Failure]) -> bool:
        if not any(failure.status == -signal.SIGKILL for failure in failures.values()):
            return False
        before, self._oom_kills = self._oom_kills, self._hooks.oom_kills()
        return self._oom_kills > before

    def _permanent(self, diagnosis: Diagnosis) -> Outcome:
        self._hooks.log(f"{diagnosis.message}; this cannot be mended by trying again")
        failpoint("elastic.closing")
        self._hooks.verdict.close(diagnosis.code)
        self._wait(CLOSED_SECONDS)
        return _outcome(diagnosis)

    def _exhausted(self, killed_for_memory: bool) -> Outcome:
        self._send_stop()
        # A victim may have ended before the neighbour that it lost.
        meanwhile = [failure for failure in self._wait(self._grace) if failure.status != -signal.SIGTERM]
        diagnosis = diagnose([*self._recent, *meanwhile], killed_for_memory=killed_for_memory)
        self._hooks.log(f"{diagnosis.message}; no restarts left")
        return _outcome(diagnosis, exhausted=True)

    # Ends

    def _closed(self, code: int) -> Outcome:
        """Somebody has ended the run; our workers hear of it as well."""
        complete = code == ExitCode.OK
        failures = self._wait(FINISH_SECONDS if complete else CLOSED_SECONDS, until=lambda: self._stop)
        if self._stop:
            self._send_stop()
            failures += self._wait(self._grace)
        if complete:
            return Outcome(ExitCode.OK, message="the run is complete")
        own = [failure for failure in [*self._recent, *failures] if failure.status == code]
        if own:
            return _outcome(diagnose(own))
        return Outcome(code, cause_of(code), message="another node found an error that trying again cannot mend")

    def _stopped(self) -> Outcome:
        failpoint("elastic.stopping")
        self._hooks.log(f"told to stop: the workers have {self._grace:g} s for their checkpoint")
        self._send_stop()
        failures = self._wait(self._grace)
        in_time = not self._running()
        if all(slot.done for slot in self._slots):
            return Outcome(ExitCode.OK, message="the run is complete")
        if failures:
            found = diagnose(failures)
            if found.permanent:
                self._hooks.verdict.close(found.code)
                return _outcome(found)
        message = "stopped after a checkpoint" if in_time else "stopped; the checkpoint took longer than the grace"
        return Outcome(ExitCode.TRY_AGAIN, names.CAUSE_PREEMPTION, message=message)

    # Waiting

    def _running(self) -> bool:
        return any(slot.pid is not None for slot in self._slots)

    def _wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> list[Failure]:
        """Wait until no worker runs, at most `seconds` or until `until()`; the failures seen meanwhile."""
        deadline = self._hooks.clock() + seconds
        failures: list[Failure] = []
        while True:
            failures += self._look().values()
            if not self._running() or self._hooks.clock() >= deadline or until():
                return failures
            self._hooks.sleep(self._interval)

    def _send_stop(self) -> None:
        for slot in self._slots:
            slot.send(signal.SIGTERM)

    def _kill(self) -> None:
        for slot in self._slots:
            slot.kill()
        self._wait(KILL_SECONDS)


def _outcome(diagnosis: Diagnosis, *, exhausted: bool = False) -> Outcome:
    return Outcome(diagnosis.code, diagnosis.cause, diagnosis.rank, diagnosis.message, exhausted)
