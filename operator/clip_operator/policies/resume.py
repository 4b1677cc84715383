"""A failed attempt is followed by the next one, from the newest verified checkpoint, as long as the budget lasts."""

from __future__ import annotations

import json

from clip_operator.causes import Failure, worst
from clip_operator.decisions import (
    FAIL_NOW,
    Action,
    CreateAttempt,
    Emit,
    InspectCheckpoints,
    Requeue,
    annotate,
    end_run,
    scale_rendezvous,
)
from clip_operator.job_view import JobView
from clip_operator.moments import format_time
from clip_operator.policies import budget, finish
from clip_operator.world import CheckpointSummary, World
from clipctl.contract import names

_WAIT_FOR_PODS_SECONDS = 60.0  # beyond their grace period; incarnations fence off a trainer that lives even longer
_POD_POLL_SECONDS = 5.0


def decide(world: World, now: float) -> list[Action] | None:
    """Start the next attempt of a failed job, or fail a job whose pods have restarted too often."""
    job = world.newest
    if job.failed:
        return _after_failure(world, now)
    if not _restarted_too_often(world):
        return None
    failure = explanation(world)
    wanted = record(failure) | {
        names.ANNOTATION_STATE: names.STATE_RESTARTING,
        names.ANNOTATION_REASON: failure.cause,
        names.ANNOTATION_MESSAGE: f"retry.restarts_in_place is used up: {failure.message}",
    }
    return annotate(job, wanted, None if job.deadline_forced else FAIL_NOW)


def explanation(world: World) -> Failure:
    """Why the newest attempt failed, from its pods and what was recorded while they lived."""
    seen = [failure for pod in world.pods_of(world.newest.attempt) for failure in pod.failures]
    recorded = world.newest.last_failure
    found = worst([*seen, *([recorded] if recorded else [])])
    return found or Failure(names.CAUSE_INFRASTRUCTURE, None, "", "no worker has left a reason")


def record(failure: Failure) -> dict[str, str]:
    """The annotation that outlives the pods."""
    return {names.ANNOTATION_LAST_FAILURE: json.dumps(failure.to_json(), sort_keys=True)}


def _restarted_too_often(world: World) -> bool:
    """Counts pods that have left, too.

    training-operator deletes the pods of a job that is over its backoffLimit *before* it records the failure. If that
    write meets a conflict, it has forgotten the restarts at the next look and starts the same job with new pods.
    """
    limit = world.newest.retry.restarts_in_place
    return any(pod.restarts > limit for pod in world.pods_of(world.newest.attempt))


def _after_failure(world: World, now: float) -> list[Action]:
    job = world.newest
    failure = explanation(world)
    if not budget.allows(job.retry, job.history, failure.cause):
        message = budget.exhausted_message(job, failure.cause, failure.message)
        return end_run(world, now, names.STATE_FAILED, names.REASON_BUDGET_EXHAUSTED, message)
    wait = _seconds_to_wait(world, now)
    if wait > 0:
        wanted = record(failure) | {
            names.ANNOTATION_STATE: names.STATE_RESTARTING,
            names.ANNOTATION_REASON: failure.cause,
            names.ANNOTATION_MESSAGE: f"attempt {job.attempt} failed; the next one follows soon: {failure.message}",
        }
        return [*annotate(job, wanted), Requeue(wait)]
    if world.checkpoints is None:
        return [InspectCheckpoints()]
    if world.checkpoints.all_corrupt:
        reason, message = names.REASON_CHECKPOINTS_CORRUPT, world.checkpoints.problem
        return end_run(world, now, names.STATE_FAILED, reason, message)
    return _next_attempt(world, failure, world.checkpoints)


def _seconds_to_wait(world: World, now: float) -> float:
    """Until the back-off is over and the old pods have left (they may still be writing their checkpoint)."""
    job = world.newest
    backoff = job.ended_at + budget.backoff_seconds(job.retry, len(job.history)) - now
    patience = job.ended_at + job.grace_seconds + _WAIT_FOR_PODS_SECONDS - now
    if patience > 0 and any(pod.live for pod in world.pods_of(job.attempt)):
        return max(backoff, min(patience, _POD_POLL_SECONDS))
    return backoff


def _next_attempt(world: World, failure: Failure, checkpoints: CheckpointSummary) -> list[Action]:
    job = world.newest
    number = job.attempt + 1
    message = resume_message(number, checkpoints)
    annotations = {
        names.ANNOTATION_STATE: names.STATE_PENDING,
        names.ANNOTATION_REASON: names.REASON_RESUMED,
        names.ANNOTATION_MESSAGE: message,
        names.ANNOTATION_HISTORY: json.dumps([*job.history, failure.cause]),
        names.ANNOTATION_RESUME_FROM: checkpoints.resume_from,
        names.ANNOTATION_REJECTED: json.dumps(checkpoints.rejected),
        names.ANNOTATION_STARTED_AT: format_time(world.first_created_at),
    }
    closed = record(failure) | {
        names.ANNOTATION_STATE: names.STATE_RESTARTING,
        names.ANNOTATION_REASON: failure.cause,
        names.ANNOTATION_MESSAGE: f"attempt {job.attempt} failed: {failure.message}",
        names.ANNOTATION_SUPERSEDED_BY: str(number),
        names.ANNOTATION_STARTED_AT: format_time(world.first_created_at),
    }
    return [
        *scale_rendezvous(world, 1),
        # Events first: once the next attempt exists, nobody looks at this one in this way again.
        Emit(job, "Normal", names.REASON_RESUMED, message),
        *_rejections(job, checkpoints),
        CreateAttempt(job, number, annotations),
        *annotate(job, closed),
        *finish.drop_old_attempts(world),
    ]


def resume_message(number: int, checkpoints: CheckpointSummary) -> str:
    """What the new attempt starts from, for people."""
    if checkpoints.problem:
        return f"attempt {number} resumes; the trainer finds the checkpoint itself, because {checkpoints.problem}"
    source = checkpoints.resume_from or "the beginning (no checkpoint was committed)"
    if not checkpoints.rejected:
        return f"attempt {number} resumes from {source}"
    return f"attempt {number} resumes from {source}; passed over {len(checkpoints.rejected)} damaged: " + "; ".join(
        checkpoints.rejected
    )


def _rejections(job: JobView, checkpoints: CheckpointSummary) -> list[Action]:
    return [Emit(job, "Warning", names.REASON_CHECKPOINT_REJECTED, text) for text in checkpoints.rejected]
