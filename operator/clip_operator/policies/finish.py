"""The end of a run: record success, keep a verdict in force, release the rendezvous pod, drop old attempts."""

from __future__ import annotations

from clip_operator.decisions import FAIL_NOW, Action, DeleteJob, PatchJob, annotate, end_run, scale_rendezvous
from clip_operator.policies import ttl
from clip_operator.world import World
from clipctl.contract import names


def decide(world: World, now: float) -> list[Action] | None:
    """Handle a run that is over, by training-operator's word (success) or by ours (failure)."""
    job = world.newest
    if job.succeeded:
        if job.state == names.STATE_SUCCEEDED:
            return [*scale_rendezvous(world, 0), *drop_old_attempts(world), *ttl.decide(world, now)]
        return [*_record_success(world, now), *drop_old_attempts(world)]
    if job.state != names.STATE_FAILED:
        return None
    again: list[Action] = [] if job.over or job.deadline_forced else [PatchJob(job, run_policy=FAIL_NOW)]
    expired = ttl.decide(world, now) if job.over or job.suspended else []
    return [*again, *scale_rendezvous(world, 0), *drop_old_attempts(world), *expired]


def drop_old_attempts(world: World) -> list[Action]:
    """Delete attempts whose successor has ended too: one finished attempt, with its logs, is always kept.

    An old attempt that still runs, which only manual changes can bring about, is stopped first.
    """
    actions: list[Action] = []
    for job, successor in zip(world.jobs, world.jobs[1:], strict=False):
        if job.deleting:
            continue
        run_policy = FAIL_NOW if not job.over and not job.deadline_forced else None
        if job.over and successor.over:
            actions.append(DeleteJob(job))
        else:
            # Written when the successor is made; again here, in case the operator died in between.
            actions += annotate(job, {names.ANNOTATION_SUPERSEDED_BY: str(successor.attempt)}, run_policy)
    return actions


def _record_success(world: World, now: float) -> list[Action]:
    attempts = world.newest.attempt
    message = "completed" if attempts <= 1 else f"completed in attempt {attempts}"
    return end_run(world, now, names.STATE_SUCCEEDED, names.REASON_COMPLETED, message)
