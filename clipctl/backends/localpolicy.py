"""What a local run does after a launcher or an attempt has ended: pure, the counterpart of kubelet and operator."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipctl.contract import names
from clipctl.contract.errors import PERMANENT_CODES, ExitCode
from clipctl.contract.sections import RetrySection

LONGEST_POD_BACKOFF = 30.0
LONGEST_ATTEMPT_BACKOFF = 300.0


@dataclass(frozen=True)
class PodEnd:
    """How a launcher ended. `exhausted`: it has used up its restarts, another one would fail the same way."""

    code: int
    cause: str
    message: str
    exhausted: bool = False

    @property
    def permanent(self) -> bool:
        """Whether trying again cannot help."""
        return self.code in PERMANENT_CODES


def read_pod_end(name: str, status: int, termination: Any) -> PodEnd:
    """Understand a launcher's end.

    Args:
        name: of the pod, for the message.
        status: `Popen.returncode`, negative for a signal.
        termination: the launcher's termination message; anything but a mapping if it left none.
    """
    if status < 0:
        try:
            shown = signal.Signals(-status).name
        except ValueError:
            shown = f"signal {-status}"
        return PodEnd(ExitCode.TRY_AGAIN, names.CAUSE_INFRASTRUCTURE, f"{name} was killed by {shown}")
    if isinstance(termination, Mapping) and termination.get("code") == status:
        cause = termination.get("cause")
        return PodEnd(
            status,
            cause if cause in names.CAUSES else names.CAUSE_INFRASTRUCTURE,
            f"{name}: {termination.get('message') or f'exit code {status}'}",
            bool(termination.get("exhausted")),
        )
    cause = names.CAUSE_USER_ERROR if status in PERMANENT_CODES else names.CAUSE_INFRASTRUCTURE
    return PodEnd(status, cause, f"{name}: exit code {status}")


def pod_backoff(restarts: int) -> float:
    """Seconds before the `restarts`-th restart of a launcher: 1, 2, 4 ... up to 30."""
    assert restarts >= 1
    return min(LONGEST_POD_BACKOFF, 2.0 ** (restarts - 1))


def may_restart(end: PodEnd, restarts: int, retry: RetrySection) -> bool:
    """Whether a launcher that ended badly is started again within the attempt."""
    return not end.permanent and not end.exhausted and restarts < retry.restarts_in_place


def attempt_backoff(causes: Sequence[str], retry: RetrySection) -> float | None:
    """Seconds before the next attempt after attempts that ended for `causes` (oldest first); None: give up.

    Each cause has a budget of its own; user errors and damaged data have none.
    """
    newest = causes[-1]
    budget = getattr(retry.attempts, newest, 0)
    if causes.count(newest) > budget:
        return None
    return min(LONGEST_ATTEMPT_BACKOFF, retry.backoff_seconds * 2.0 ** (len(causes) - 1))


def give_up_reason(end: PodEnd) -> str:
    """The reason shown for a run that has failed for good."""
    return names.REASON_USER_ERROR if end.permanent else names.REASON_BUDGET_EXHAUSTED
