"""A run that is neither over nor in trouble: say what it is doing or waiting for, and keep its rendezvous up."""

from __future__ import annotations

from clip_operator.causes import worst
from clip_operator.decisions import Action, annotate, scale_rendezvous
from clip_operator.job_view import JobView
from clip_operator.moments import format_time
from clip_operator.pod_view import PodView
from clip_operator.policies import deadline, finish, resume
from clip_operator.world import World
from clipctl.contract import names


def decide(world: World, now: float) -> list[Action]:
    """Record state, reason and message; wake up at the deadline."""
    job = world.newest
    pods = [pod for pod in world.pods_of(job.attempt) if not pod.gone]
    state, reason, message = describe(job, pods)
    wanted = {
        names.ANNOTATION_STATE: state,
        names.ANNOTATION_REASON: reason,
        names.ANNOTATION_MESSAGE: message,
        names.ANNOTATION_STARTED_AT: format_time(world.first_created_at),
    }
    failure = worst(failure for pod in world.pods_of(job.attempt) for failure in pod.failures)
    if failure is not None:
        wanted |= resume.record(failure)
    rendezvous = [] if job.suspended else scale_rendezvous(world, 1)
    return [*rendezvous, *annotate(job, wanted), *finish.drop_old_attempts(world), *deadline.wake(world, now)]


def describe(job: JobView, pods: list[PodView]) -> tuple[str, str, str]:
    """State, reason and message for people. Being queued or suspended is waiting, not failing."""
    if job.suspended:
        return names.STATE_PENDING, *(("Queued", "waits for Kueue to admit it") if job.queued else _SUSPENDED)
    running = sum(pod.phase == "Running" and pod.waiting is None for pod in pods)
    workers = f"{running} of {job.workers_wanted} workers run in attempt {job.attempt}"
    waiting = next(((pod.name, *pod.waiting) for pod in sorted(pods, key=_name) if pod.waiting), None)
    if running and waiting is None:
        return names.STATE_RUNNING, "Running", workers
    if waiting is not None:
        pod, reason, detail = waiting
        state = names.STATE_RUNNING if running else _idle_state(pods)
        return state, reason, f"{workers}; {pod} waits: {reason}" + (f": {detail}" if detail else "")
    return _idle_state(pods), "Starting", workers


_SUSPENDED = ("Suspended", "its PyTorchJob is suspended")


def _idle_state(pods: list[PodView]) -> str:
    return names.STATE_RESTARTING if any(pod.restarts for pod in pods) else names.STATE_PENDING


def _name(pod: PodView) -> str:
    return pod.name
