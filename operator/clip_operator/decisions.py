"""The actions a policy can ask for, as plain values: deciding and doing stay apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clip_operator.job_view import JobView
from clip_operator.moments import format_time
from clip_operator.pod_view import PodView
from clip_operator.world import World
from clipctl.contract import names
from clipctl.contract.redact import redact


@dataclass(frozen=True)
class Requeue:
    """Look at this run again after so many seconds."""

    after: float


@dataclass(frozen=True)
class InspectCheckpoints:
    """Ask storage for the newest verified checkpoint, then decide again."""


@dataclass(frozen=True)
class PatchJob:
    """One write to a job: annotations and run policy together, only if nobody else has changed the job."""

    job: JobView
    annotations: Mapping[str, str] = field(default_factory=dict)
    run_policy: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CreateAttempt:
    """Make the PyTorchJob of attempt `number` from the one before it, with these annotations in addition."""

    previous: JobView
    number: int
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class ScaleRendezvous:
    """Set the replicas of the rendezvous Deployment."""

    replicas: int


@dataclass(frozen=True)
class DeleteJob:
    """Delete an old attempt's PyTorchJob (its pods go with it)."""

    job: JobView


@dataclass(frozen=True)
class DeleteRun:
    """Delete every object of the run from the cluster; storage is never touched."""

    jobs: tuple[JobView, ...]


@dataclass(frozen=True)
class ForceDeletePod:
    """Remove a pod whose node will not confirm its end."""

    pod: PodView


@dataclass(frozen=True)
class Emit:
    """A Kubernetes Event on a job."""

    job: JobView
    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = (
    Requeue
    | InspectCheckpoints
    | PatchJob
    | CreateAttempt
    | ScaleRendezvous
    | DeleteJob
    | DeleteRun
    | ForceDeletePod
    | Emit
)

FAIL_NOW: Mapping[str, object] = {"activeDeadlineSeconds": 0}
"""Run policy that makes training-operator fail the job at its next look, which the patch itself causes. Unlike
suspending it, this is final, releases the devices, and Kueue sees a finished job."""


def annotate(job: JobView, wanted: Mapping[str, str], run_policy: Mapping[str, object] | None = None) -> list[Action]:
    """Patch what differs; nothing if nothing does."""
    clean = {key: redact(value) for key, value in wanted.items()}
    changed = {key: value for key, value in clean.items() if job.annotations.get(key) != value}
    if not changed and not run_policy:
        return []
    return [PatchJob(job, changed, run_policy or {})]


def scale_rendezvous(world: World, replicas: int) -> list[Action]:
    """Scale the rendezvous Deployment if it exists and has another size."""
    if world.rendezvous_replicas in (None, replicas):
        return []
    return [ScaleRendezvous(replicas)]


def end_run(world: World, now: float, state: str, reason: str, message: str) -> list[Action]:
    """End the run: record the verdict, stop what still runs, release the rendezvous pod.

    The verdict and the order to stop are one write, so a crash cannot leave one without the other.
    """
    job = world.newest
    wanted = {
        names.ANNOTATION_STATE: state,
        names.ANNOTATION_REASON: reason,
        names.ANNOTATION_MESSAGE: message,
        names.ANNOTATION_STARTED_AT: format_time(world.first_created_at),
        names.ANNOTATION_FINISHED_AT: format_time(job.ended_at if job.over else now),
    }
    failed = state == names.STATE_FAILED
    run_policy = FAIL_NOW if failed and not job.over and not job.deadline_forced else None
    event = Emit(job, "Warning" if failed else "Normal", reason, redact(message))
    # The event comes first: after the verdict is written nobody looks at this run in this way again. Its name follows
    # from its content, so that a repetition is harmless.
    return [event, *annotate(job, wanted, run_policy), *scale_rendezvous(world, 0)]
