"""`python -m clipctl.backends.supervisor RUN_DIR`: looks after one local run until it is over.

It plays the parts that kubelet, training-operator and our operator have on a cluster: it starts the coordinator
and the launchers, restarts what dies, makes new attempts within the budgets, keeps the deadline, and stops on SIGTERM
after a checkpoint. It imports no torch, and none of its processes outlives it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from clipctl.backends.attempt import Attempt, Verdict
from clipctl.backends.localpods import Processes
from clipctl.backends.localpolicy import attempt_backoff, give_up_reason
from clipctl.backends.localstate import RunDirectory, SupervisorState
from clipctl.contract import names
from clipctl.contract.errors import ExitCode
from clipctl.contract.failpoints import failpoint
from clipctl.contract.spec import RunSpec

TICK = 0.2
_LOCK_SECONDS = 5.0
_LAST_WORDS_SECONDS = 5.0  # for the other launchers to hear of a permanent error and end in order
_SUCCEEDED: dict[str, object] = {
    "state": names.STATE_SUCCEEDED,
    "reason": names.REASON_COMPLETED,
    "message": "",
    "exit_code": int(ExitCode.OK),
}
_STOPPED: dict[str, object] = {
    "state": names.STATE_STOPPED,
    "reason": "",
    "message": "stopped on request; submit it again to resume",
    "exit_code": int(ExitCode.TRY_AGAIN),
}


class Supervisor:
    """One run.

    Args:
        directory: the run's files.
        spec: what to run.
        processes: starts them.
        clock: seconds since the epoch; the deadline survives the supervisor.
        sleep: waits.
    """

    def __init__(
        self,
        directory: RunDirectory,
        spec: RunSpec,
        processes: Processes,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._processes = processes
        self._clock = clock
        self._sleep = sleep
        submission = directory.read_submission()
        now = clock()
        self._submitted_at = submission.submitted_at if submission else now
        self._state = SupervisorState(pid=os.getpid(), attempt=submission.attempt if submission else 1)
        self._written: SupervisorState | None = None
        self._stop = False

    def request_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Checkpoint and stop; usable as a signal handler."""
        self._stop = True

    def run(self) -> SupervisorState:
        """Work until the run is over; returns the final state, which is also on disk."""
        self._publish()
        while True:
            verdict = self._one_attempt()
            if verdict is not None:
                break
        failpoint("local.finished")
        self._publish(finished_at=self._clock(), **verdict)
        return self._state

    def _one_attempt(self) -> dict[str, object] | None:
        """Run one attempt; the final state's fields, or None if there will be another attempt."""
        attempt = Attempt(self._spec, self._state.attempt, self._processes, self._clock)
        failpoint("local.attempt")
        attempt.start()
        try:
            while (verdict := attempt.tick()) is None:
                if self._stop:
                    return self._stopped(attempt)
                if self._overdue():
                    return self._out_of_time(attempt)
                self._publish(state=attempt.state, reason=attempt.reason, pods=attempt.pods(), port=attempt.port)
                self._sleep(TICK)
            if verdict.end is not None:
                self._end_gently(attempt, _LAST_WORDS_SECONDS if verdict.end.permanent else None)
        finally:
            attempt.kill()
            self._publish(pods=attempt.pods())
        return self._settle(verdict)

    def _settle(self, verdict: Verdict) -> dict[str, object] | None:
        if verdict.end is None:
            return _SUCCEEDED
        end = verdict.end
        causes = (*self._state.causes, end.cause)
        self._publish(causes=causes, message=end.message)
        delay = None if end.permanent else attempt_backoff(causes, self._spec.retry)
        if delay is None:
            return _failed(give_up_reason(end), end.message, end.code)
        self._publish(state=names.STATE_RESTARTING, reason=end.cause, attempt=self._state.attempt + 1)
        return self._wait(delay)

    def _wait(self, seconds: float) -> dict[str, object] | None:
        until = self._clock() + seconds
        while self._clock() < until:
            if self._stop:
                return _STOPPED
            self._sleep(TICK)
        return None

    def _stopped(self, attempt: Attempt) -> dict[str, object]:
        self._publish(message="stopping after a checkpoint")
        verdict = self._end_gently(attempt)
        if verdict is None:
            return _STOPPED
        if verdict.end is None:
            return _SUCCEEDED
        return _failed(names.REASON_USER_ERROR, verdict.end.message, verdict.end.code)

    def _out_of_time(self, attempt: Attempt) -> dict[str, object]:
        verdict = self._end_gently(attempt)
        if verdict is not None and verdict.end is None:
            return _SUCCEEDED
        seconds = self._spec.retry.deadline_seconds
        message = f"not done {seconds} s after it was submitted; submit it again for as long again"
        return _failed(names.REASON_DEADLINE, message, ExitCode.TRY_AGAIN)

    def _end_gently(self, attempt: Attempt, seconds: float | None = None) -> Verdict | None:
        attempt.terminate()
        deadline = self._clock() + (self._spec.scale.grace_seconds if seconds is None else seconds)
        while attempt.running() and self._clock() < deadline:
            self._sleep(TICK)
        return attempt.closing_verdict()

    def _overdue(self) -> bool:
        deadline = self._spec.retry.deadline_seconds
        return deadline is not None and self._clock() - self._submitted_at > deadline

    def _publish(self, **changes: object) -> None:
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]  # checked by the callers' tests
        if self._state != self._written:
            self._directory.write_state(self._state)
            self._written = self._state


def _failed(reason: str, message: str, code: int) -> dict[str, object]:
    return {"state": names.STATE_FAILED, "reason": reason, "message": message, "exit_code": int(code)}


def main(arguments: list[str]) -> int:
    """Supervise the run in the directory given; returns the run's exit code."""
    directory = RunDirectory(Path(arguments[0]))
    worker = arguments[1] if len(arguments) > 1 else "clip_trainer.main"
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        with directory.locked() as mine:
            if mine:
                return _supervise(directory, worker)
        if time.monotonic() > deadline:
            print(f"another supervisor looks after {directory.name}", file=sys.stderr)
            return ExitCode.TRY_AGAIN
        time.sleep(0.05)  # somebody is just looking whether the lock is free


def _supervise(directory: RunDirectory, worker: str) -> int:
    config = directory.read_config()
    assert config is not None  # the backend has just written it
    spec = RunSpec.model_validate(config["spec"])
    supervisor = Supervisor(directory, spec, Processes(directory, spec, os.environ, worker))
    signal.signal(signal.SIGTERM, supervisor.request_stop)
    signal.signal(signal.SIGINT, supervisor.request_stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal may go; the run stays
    return supervisor.run().exit_code or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
