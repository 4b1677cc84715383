"""How often a run may be tried again, counted by the cause of each failed attempt, and how long to wait before."""

from __future__ import annotations

from clip_operator.job_view import JobView
from clip_operator.retry_policy import RetryPolicy

MAX_BACKOFF_SECONDS = 300.0


def allows(policy: RetryPolicy, history: tuple[str, ...], cause: str) -> bool:
    """Whether one more attempt is within the budget, after earlier failures `history` and now one by `cause`.

    Causes without a budget (user errors, data) never get another attempt.
    """
    return history.count(cause) + 1 <= policy.budget.get(cause, 0)


def backoff_seconds(policy: RetryPolicy, failures: int) -> float:
    """Wait before the next attempt: doubles with each earlier failure, up to five minutes."""
    return min(policy.backoff_seconds * 2.0 ** min(failures, 32), MAX_BACKOFF_SECONDS)


def exhausted_message(job: JobView, cause: str, detail: str) -> str:
    """What to tell the user when the budget is used up."""
    allowed = job.retry.budget.get(cause, 0)
    return f"attempt {job.attempt} ended by {cause} and retry.attempts.{cause} ({allowed}) is used up: {detail}"
