"""The agent of one node: keeps its workers in the group, one round after the other, until the run is over.

A round is: meet the other nodes, start the workers, watch. It ends when all workers have finished, when one fails, when
a node wants in, when the group is closed, or when we are told to stop.
"""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType

from clip_trainer.elastic.policy import Diagnosis, Failure, RestartBudget, cause_of, diagnose
from clip_trainer.elastic.reconnect import Reconnect
from clip_trainer.elastic.rendezvous import ClosedError, Meeting, NotEnoughNodesError, Round, StoreLostError
from clip_trainer.elastic.settings import LaunchSettings
from clip_trainer.elastic.workers import Workers
from clipctl.contract import names
from clipctl.contract.errors import ExitCode

DRAIN_SECONDS = 1.0
"""What the other workers get to end by themselves after one has died: they hold nothing that is not safe already."""
REGROUP_SECONDS = 60.0
"""Longest time for the checkpoint before a round is left for a new node."""
FINISH_SECONDS = 60.0
"""Longest time to wait for other nodes' workers to finish after ours have."""
_ASKED_TO_END = (ExitCode.TRY_AGAIN, -signal.SIGTERM)  # the signal kills a worker that has only just started


@dataclass(frozen=True)
class Outcome:
    """How the agent ended: exit status and why. `exhausted`: restarting this container as well would not help."""

    code: int
    cause: str = ""
    rank: int = -1
    message: str = ""
    exhausted: bool = False


class StopRequested(BaseException):
    """Raised by the signal handler where the agent waits inside torch. Not an `Exception`, so nobody swallows it."""


class _Ending(enum.Enum):
    WORKERS_ENDED = enum.auto()
    REGROUP = enum.auto()
    CLOSED = enum.auto()
    STOP = enum.auto()


@dataclass
class Hooks:
    """The outside world of an agent, replaceable in tests.

    Attributes:
        connect: opens the meeting; raises `StoreLostError`.
        environments: the workers' environments of a round, by global rank.
        progress: newest safely stored step, -1 if none.
        oom_kills: the kernel's counter of out-of-memory kills.
        log: takes one line.
    """

    connect: Callable[[], Meeting]
    environments: Callable[[Round], dict[int, dict[str, str]]]
    progress: Callable[[], int]
    oom_kills: Callable[[], int]
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Agent:
    """See the module's docstring.

    Args:
        settings: limits and intervals.
        workers: this node's processes.
        grace: seconds the workers get to write a checkpoint after SIGTERM.
        hooks: the outside world.
    """

    def __init__(self, settings: LaunchSettings, workers: Workers, grace: float, hooks: Hooks) -> None:
        self._settings = settings
        self._workers = workers
        self._grace = grace
        self._hooks = hooks
        self._budget = RestartBudget(settings.max_restarts)
        self._meeting: Meeting | None = None
        self._reconnect: Reconnect | None = None
        self._stop = False
        self._interruptible = False
        self._oom_kills = hooks.oom_kills()

    def request_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Checkpoint and end; usable as a signal handler. Repeating it changes nothing."""
        self._stop = True
        if self._interruptible:
            self._interruptible = False
            raise StopRequested

    def run(self) -> Outcome:
        """Work until the run is over, the budget is used up or a stop is requested. No worker survives the return."""
        try:
            while True:
                outcome = self._one_round()
                if outcome is not None:
                    return outcome
        except StopRequested:
            return self._stopped()
        finally:
            self._workers.kill()

    def _one_round(self) -> Outcome | None:
        place = self._join()
        if isinstance(place, Outcome):
            return place
        self._hooks.log(f"round with {place.nodes} nodes, this is node {place.node_rank}")
        self._workers.start(self._hooks.environments(place))
        ending = self._watch()
        if ending is _Ending.STOP:
            return self._stopped()
        if ending is _Ending.CLOSED:
            return self._closed()
        if ending is _Ending.REGROUP:
            return self._regroup()
        return self._workers_ended()

    # Joining

    def _join(self) -> Round | Outcome:
        deadline = self._hooks.clock() + self._settings.rendezvous_seconds
        delay = 0.5
        if self._reconnect is not None:
            self._reconnect.cancel()
            self._reconnect = None
        with self._interruptible_by_stop():
            while True:
                try:
                    if self._meeting is None:
                        self._meeting = self._hooks.connect()
                    return self._meeting.join()
                except ClosedError:
                    return self._closed()
                except NotEnoughNodesError:
                    message = f"fewer than {self._settings.min_nodes} nodes came to the rendezvous"
                    return Outcome(ExitCode.TRY_AGAIN, names.CAUSE_INFRASTRUCTURE, message=message)
                except StoreLostError as error:
                    self._meeting = None
                    if self._hooks.clock() >= deadline:
                        message = f"the rendezvous store at {self._settings.endpoint} does not answer: {error}"
                        return Outcome(ExitCode.UNAVAILABLE, names.CAUSE_INFRASTRUCTURE, message=message)
                    self._hooks.log(f"no rendezvous ({error}); next try in {delay:g} s")
                self._hooks.sleep(delay)
                delay = min(5.0, delay * 2)

    # Watching

    def _watch(self) -> _Ending:
        while self._workers.poll() and not self._workers.failures:
            if self._stop:
                return _Ending.STOP
            news = self._news()
            if news is not None:
                return news
            self._hooks.sleep(self._settings.monitor_interval)
        return _Ending.STOP if self._stop else _Ending.WORKERS_ENDED

    def _news(self) -> _Ending | None:
        if self._meeting is None:
            assert self._reconnect is not None
            self._meeting = self._reconnect.result()
            return None if self._meeting is None else _Ending.REGROUP
        try:
            if self._meeting.is_closed():
                return _Ending.CLOSED
            return _Ending.REGROUP if self._meeting.someone_waits() else None
        except StoreLostError as error:
            self._lose_store(error)
            return None

    def _lose_store(self, error: StoreLostError) -> None:
        # The workers do not need the store: they go on, and the group meets again when a new one is up.
        self._hooks.log(f"lost the rendezvous store ({error}); training goes on")
        self._meeting = None
        self._reconnect = Reconnect(self._hooks.connect)

    # Ends of a round

    def _regroup(self) -> Outcome | None:
        self._hooks.log("the group changes: checkpoint, then meet again")
        self._workers.send(signal.SIGTERM)
        self._workers.wait(min(self._grace, REGROUP_SECONDS), until=lambda: bool(self._hard_failures()))
        if self._stop:
            return self._stopped()
        if self._hard_failures() or not (self._workers.failures or self._workers.pids):
            return self._workers_ended()
        self._workers.kill()
        return None

    def _hard_failures(self) -> bool:
        """Whether a worker that was asked to end did so for a reason of its own."""
        return any(failure.status not in _ASKED_TO_END for failure in self._workers.failures)

    def _workers_ended(self) -> Outcome | None:
        self._workers.wait(DRAIN_SECONDS)
        failures = self._workers.failures
        self._workers.kill()
        if not failures:
            return self._finish()
        self._budget.note_progress(self._hooks.progress())
        diagnosis = self._diagnose(failures, killed_for_memory=self._new_oom_kill())
        if diagnosis.permanent:
            self._hooks.log(f"{diagnosis.message}; this cannot be mended by trying again")
            self._tell_everybody(diagnosis.code)
            return _outcome(diagnosis)
        if not self._budget.spend(diagnosis):
            self._hooks.log(f"{diagnosis.message}; no restarts left")
            self._leave()
            return _outcome(diagnosis, exhausted=True)
        limit = self._settings.max_restarts
        self._hooks.log(f"{diagnosis.message}; restart {self._budget.used} of {limit} without progress")
        with self._interruptible_by_stop():
            self._hooks.sleep(self._budget.backoff)
        return None

    def _diagnose(self, failures: list[Failure], *, killed_for_memory: bool = False) -> Diagnosis:
        found = diagnose(failures, killed_for_memory=killed_for_memory)
        words = self._workers.last_words(found.rank)
        return replace(found, message=f"{found.message}: {words}") if words else found

    def _new_oom_kill(self) -> bool:
        before, self._oom_kills = self._oom_kills, self._hooks.oom_kills()
        return self._oom_kills > before

    def _finish(self) -> Outcome | None:
        """Ours have finished; see that nobody else is still needed. A node that failed meanwhile gets a new round."""
        done = Outcome(ExitCode.OK, message="the run is complete")
        deadline = self._hooks.clock() + FINISH_SECONDS
        try:
            if self._meeting is None:
                return done
            self._meeting.mark_finished()
            while not self._meeting.all_finished() and not self._meeting.is_closed():
                if self._stop or self._hooks.clock() >= deadline:
                    break
                if self._meeting.someone_waits():
                    return None
                self._hooks.sleep(self._settings.monitor_interval)
            self._meeting.close(ExitCode.OK)
        except StoreLostError as error:
            self._hooks.log(f"the rendezvous store is gone at the end ({error})")
        return done

    def _closed(self) -> Outcome:
        verdict: int | None = None
        with suppress(StoreLostError):
            verdict = None if self._meeting is None else self._meeting.verdict()
        if verdict == ExitCode.OK:
            self._workers.wait(FINISH_SECONDS, until=lambda: self._stop)
        self._workers.kill()
        if verdict is None:
            return Outcome(ExitCode.TRY_AGAIN, names.CAUSE_INFRASTRUCTURE, message="the group was closed")
        if verdict == ExitCode.OK:
            return Outcome(ExitCode.OK, message="the run is complete")
        return Outcome(verdict, cause_of(verdict), message="another node found an error that trying again cannot mend")

    def _stopped(self) -> Outcome:
        self._hooks.log(f"told to stop: the workers have {self._grace:g} s for their checkpoint")
        self._workers.send(signal.SIGTERM)
        in_time = self._workers.wait(self._grace)
        failures, ran = self._workers.failures, self._workers.started
        self._workers.kill()
        self._leave()
        if ran and in_time and not failures:
            return Outcome(ExitCode.OK, message="the run is complete")
        if failures and diagnose(failures).permanent:
            return _outcome(self._diagnose(failures))
        message = "stopped after a checkpoint" if in_time else "stopped; the checkpoint took longer than the grace"
        return Outcome(ExitCode.TRY_AGAIN, names.CAUSE_PREEMPTION, message=message)

    def _tell_everybody(self, code: int) -> None:
        with suppress(StoreLostError):
            if self._meeting is not None:
                self._meeting.close(code)

    def _leave(self) -> None:
        with suppress(StoreLostError):
            if self._meeting is not None:
                self._meeting.leave()

    @contextmanager
    def _interruptible_by_stop(self) -> Iterator[None]:
        self._interruptible = True
        try:
            if self._stop:
                raise StopRequested
            yield
        finally:
            self._interruptible = False


def _outcome(diagnosis: Diagnosis, *, exhausted: bool = False) -> Outcome:
    return Outcome(diagnosis.code, diagnosis.cause, diagnosis.rank, diagnosis.message, exhausted)
