"""What a failure means and whether to try again in place: pure, no processes, no clock."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from clipctl.contract import names
from clipctl.contract.errors import PERMANENT_CODES, ExitCode

KILLED_FOR_MEMORY = 137
"""Exit status for an out-of-memory kill: 128 + SIGKILL, as Kubernetes reports it."""

LONGEST_BACKOFF = 30.0

_OURS = frozenset(int(code) for code in ExitCode)
_CAUSES: dict[int, str] = {
    ExitCode.USAGE: names.CAUSE_USER_ERROR,
    ExitCode.MISSING: names.CAUSE_USER_ERROR,
    ExitCode.PROTOCOL: names.CAUSE_USER_ERROR,
    ExitCode.PERMISSION: names.CAUSE_USER_ERROR,
    ExitCode.CLUSTER_CONFIG: names.CAUSE_USER_ERROR,
    ExitCode.CORRUPT: names.CAUSE_DATA,
    ExitCode.HUNG: names.CAUSE_HANG,
    KILLED_FOR_MEMORY: names.CAUSE_OUT_OF_MEMORY,
}


@dataclass(frozen=True)
class Failure:
    """One worker that ended badly."""

    rank: int
    """-1 if it had none yet."""
    status: int
    """`Popen.returncode`; `ExitCode.HUNG` if the watchdog killed it."""
    at: float
    """Monotonic seconds."""
    name: str = ""
    """What to call it; default: its rank."""
    words: str = ""
    """What it said last, or how it hung."""


@dataclass(frozen=True)
class Diagnosis:
    """Why workers failed: exit code, cause (names.CAUSES), the rank to blame (-1: it had none) and a sentence."""

    code: int
    cause: str
    rank: int
    message: str

    @property
    def permanent(self) -> bool:
        """Whether trying again cannot help."""
        return self.code in PERMANENT_CODES


def diagnose(failures: Sequence[Failure], *, killed_for_memory: bool = False) -> Diagnosis:
    """Find the root cause among workers that failed together.

    One worker's death makes the others lose a peer, and they say so with exit code 75. So: a permanent code first (it
    will not go away), then whichever ended first without being a mere victim.
    """
    assert failures
    own = [failure for failure in failures if failure.status != ExitCode.TRY_AGAIN]
    permanent = [failure for failure in own if failure.status in PERMANENT_CODES]
    root = min(permanent or own or list(failures), key=lambda failure: failure.at)
    return _explain(root, killed_for_memory)


def _explain(failure: Failure, killed_for_memory: bool) -> Diagnosis:
    status = failure.status
    if status == -signal.SIGKILL and killed_for_memory:
        code, cause, end = (
            KILLED_FOR_MEMORY,
            names.CAUSE_OUT_OF_MEMORY,
            "was killed because the memory limit was reached",
        )
    elif status < 0:
        code, cause, end = int(ExitCode.TRY_AGAIN), names.CAUSE_INFRASTRUCTURE, f"was killed by {_signal_name(-status)}"
    elif status == ExitCode.HUNG:
        code, cause, end = status, names.CAUSE_HANG, "hung"
    else:
        code = status if status in _OURS else int(ExitCode.INTERNAL)
        cause, end = cause_of(code), f"ended with exit code {status}"
    message = f"{failure.name or f'rank {failure.rank}'} {end}"
    return Diagnosis(code, cause, failure.rank, f"{message}: {failure.words}" if failure.words else message)


def cause_of(code: int) -> str:
    """The cause (names.CAUSES) that one of our exit codes stands for."""
    return _CAUSES.get(code, names.CAUSE_INFRASTRUCTURE)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class RestartBudget:
    """Counts restarts in place; progress refills it.

    Args:
        limit: restarts allowed without progress in between.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._best_step = -1

    @property
    def used(self) -> int:
        """Restarts since the last progress."""
        return self._used

    def note_progress(self, step: int) -> None:
        """Tell the newest safely stored step; a newer one than ever before refills the budget."""
        if step > self._best_step:
            self._best_step = step
            self._used = 0

    def spend(self, diagnosis: Diagnosis) -> bool:
        """Take one restart for `diagnosis`; False if there is none left.

        A worker that ran out of memory gets one restart at most: the same step will most likely need as much again.
        """
        limit = min(1, self.limit) if diagnosis.cause == names.CAUSE_OUT_OF_MEMORY else self.limit
        if diagnosis.permanent or self._used >= limit:
            return False
        self._used += 1
        return True

    @property
    def backoff(self) -> float:
        """Seconds to wait before the restart just taken: none for the first, then 1, 2, 4 ... up to 30.

        It depends on nothing else, so workers that failed together also come back together.
        """
        return 0.0 if self._used <= 1 else min(LONGEST_BACKOFF, 2.0 ** (self._used - 2))
