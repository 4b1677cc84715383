"""Doing what was decided. Each action may be repeated: a crash between any two of them costs nothing.

Order of a new attempt: the job is created first, complete with its whole history, and the old one is marked
afterwards; creating it again after a crash finds that it exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from clip_operator import api as k8s
from clip_operator.api import AlreadyExistsError, Api, NotFoundError, Object, RefusedError, Resource
from clip_operator.decisions import (
    Action,
    CreateAttempt,
    DeleteJob,
    DeleteRun,
    Emit,
    ForceDeletePod,
    InspectCheckpoints,
    PatchJob,
    Requeue,
    ScaleRendezvous,
)
from clip_operator.job_view import JobView
from clip_operator.moments import format_time
from clip_operator.next_attempt import next_attempt
from clip_operator.world import World
from clipctl.contract import names
from clipctl.contract.failpoints import failpoint

_COMPONENT = "clip-operator"


class NotLeaderError(Exception):
    """This replica has lost the Lease and must not touch anything any more."""


class Executor:
    """Carries out actions against the API server.

    Args:
        api: the API server.
        clock: Unix seconds.
        may_act: asked before every write; False once the Lease is lost.
    """

    def __init__(self, api: Api, clock: Callable[[], float], may_act: Callable[[], bool]) -> None:
        self._api = api
        self._clock = clock
        self._may_act = may_act

    def execute(self, world: World, actions: Sequence[Action]) -> float | None:
        """Do the actions in order; returns after how many seconds to look again, None if only events matter.

        Raises:
            ApiError: one was refused; the ones after it were not done. Deciding anew picks up where this stopped.
            NotLeaderError: the Lease is lost.
        """
        delays: list[float] = []
        for action in actions:
            if isinstance(action, Requeue):
                delays.append(action.after)
                continue
            if not self._may_act():
                raise NotLeaderError
            failpoint("operator.act")
            self._do(world, action)
        return min(delays) if delays else None

    def _do(self, world: World, action: Action) -> None:
        match action:
            case PatchJob():
                self._patch_job(world, action)
            case CreateAttempt():
                self._create_attempt(world, action)
            case ScaleRendezvous(replicas):
                body = {"spec": {"replicas": replicas}}
                self._api.patch(k8s.DEPLOYMENTS, world.namespace, names.rendezvous_name(world.run), body)
            case DeleteJob(job):
                self._delete_job(world, job)
            case DeleteRun(jobs):
                self._delete_run(world, jobs)
            case ForceDeletePod(pod):
                self._api.delete(k8s.PODS, world.namespace, pod.name, pod.uid, grace_seconds=0)
            case Emit():
                self._emit(world, action)
            case Requeue() | InspectCheckpoints():
                raise AssertionError(f"{action} is not for the executor")

    def _patch_job(self, world: World, action: PatchJob) -> None:
        metadata: Object = {"resourceVersion": action.job.resource_version}
        if action.annotations:
            metadata["annotations"] = dict(action.annotations)
        body: Object = {"metadata": metadata}
        if action.run_policy:
            body["spec"] = {"runPolicy": dict(action.run_policy)}
        self._api.patch(k8s.PYTORCHJOBS, world.namespace, action.job.name, body)

    def _create_attempt(self, world: World, action: CreateAttempt) -> None:
        body = next_attempt(action.previous, world.run, action.number, action.annotations)
        try:
            self._api.create(k8s.PYTORCHJOBS, world.namespace, body)
        except AlreadyExistsError:
            self._check_is_ours(world, action.number)  # made before a crash, or by a leader before us

    def _check_is_ours(self, world: World, number: int) -> None:
        """Raises `RefusedError` if the name of the attempt is taken by somebody else's job."""
        selector = f"{names.LABEL_RUN}={world.run},{names.LABEL_ATTEMPT}={number}"
        if not self._api.list(k8s.PYTORCHJOBS, world.namespace, selector).items:
            name = names.job_name(world.run, number)
            raise RefusedError(f"the name {name} is taken by a PyTorchJob that does not belong to run {world.run}")

    def _delete_job(self, world: World, job: JobView) -> None:
        self._api.delete(k8s.PYTORCHJOBS, world.namespace, job.name, job.uid)

    def _delete_run(self, world: World, jobs: Sequence[JobView]) -> None:
        """Helpers first and the jobs last, newest at the very end: it is what makes a crashed deletion go on."""
        run = world.run
        self._delete_labelled(k8s.POD_MONITORS, world, run)
        self._delete_labelled(k8s.DEPLOYMENTS, world, names.rendezvous_name(run))
        self._delete_labelled(k8s.SERVICES, world, names.rendezvous_name(run))
        self._delete_labelled(k8s.CONFIGMAPS, world, names.config_name(run))
        self._delete_labelled(k8s.SERVICE_ACCOUNTS, world, run)
        for job in jobs:
            self._delete_job(world, job)

    def _delete_labelled(self, resource: Resource, world: World, name: str) -> None:
        """Delete an object only if it carries the run's label: one of the same name may belong to somebody else."""
        try:
            found = self._api.get(resource, world.namespace, name)
        except NotFoundError:
            return
        metadata = found["metadata"]
        if (metadata.get("labels") or {}).get(names.LABEL_RUN) == world.run:
            self._api.delete(resource, world.namespace, name, metadata.get("uid", ""))

    def _emit(self, world: World, action: Emit) -> None:
        """Create an Event; its name follows from its content, so that a repetition does not make another one."""
        job = action.job
        digest = hashlib.sha256(f"{job.uid}/{action.reason}/{action.message}".encode()).hexdigest()[:16]
        moment = format_time(self._clock())
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{job.name}.{digest}", "namespace": world.namespace},
            "involvedObject": {
                "apiVersion": k8s.PYTORCHJOBS.api_version,
                "kind": k8s.PYTORCHJOBS.kind,
                "namespace": world.namespace,
                "name": job.name,
                "uid": job.uid,
            },
            "type": action.kind,
            "reason": action.reason,
            "message": action.message[:1024],
            "source": {"component": _COMPONENT},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
        try:
            self._api.create(k8s.EVENTS, world.namespace, body)
        except AlreadyExistsError:
            return
