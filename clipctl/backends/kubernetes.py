"""Runs on Kubernetes: renders the chart and applies it; every operation may be repeated at any point."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from clipctl.apply import RUN_KINDS, Cluster
from clipctl.apply.podlogs import follow_logs, read_log
from clipctl.backends import kubestate
from clipctl.backends.base import Action, Plan, RunStatus, RunSummary, SubmitOptions, SubmitResult
from clipctl.backends.clusterpaths import check_locations
from clipctl.backends.diff import refuse_changed
from clipctl.contract import names
from clipctl.contract.errors import ClusterConfigError, MissingError, PermissionDeniedError, UnavailableError
from clipctl.render import render

_GONE_SECONDS = 120.0
_POLL_SECONDS = 1.0
Object = dict[str, Any]


class KubernetesBackend:
    """Runs in one namespace of one cluster.

    Args:
        cluster: an open connection.
        sleep: waits between two looks at the cluster.
        clock: monotonic seconds.
    """

    name: Any = "kubernetes"

    def __init__(
        self,
        cluster: Cluster,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._sleep = sleep
        self._clock = clock

    def submit(self, plan: Plan, options: SubmitOptions) -> SubmitResult:
        """See `Backend.submit`."""
        check_locations(plan.spec)
        jobs = self._jobs(plan.name)
        newest = kubestate.newest_attempt(jobs)
        stored = self._stored_config(plan.name)
        if stored is None and newest is None:
            return self._start(plan, 1, "created")
        following = 1 if newest is None else kubestate.attempt_of(newest) + 1
        known: dict[str, Any] = stored if stored is not None else {"spec_digest": kubestate.digest_of(newest)}
        if known.get("spec_digest") != plan.digest:
            if not options.replace:
                raise refuse_changed(plan.name, known.get("spec") or {}, plan.spec.resolved())
            self._remove_jobs(jobs)
            return self._start(plan, following, "replaced")
        return self._same_again(plan, newest, jobs, following)

    def check(self, plan: Plan) -> builtins.list[Object]:
        """What submitting would create, checked by the API server but not stored."""
        check_locations(plan.spec)
        objects = render(plan.spec, self._cluster.namespace)
        for item in objects:
            self._cluster.apply(item, dry_run=True)
        return objects

    def status(self, name: str) -> RunStatus:
        """See `Backend.status`."""
        job = self._newest(name)
        pods = list(self._cluster.list("Pod", labels=_workers(name)))
        concerned = {job["metadata"]["name"], *(pod["metadata"]["name"] for pod in pods)}
        events = [e for e in self._events() if (e.get("involvedObject") or {}).get("name") in concerned]
        current = [pod for pod in pods if _attempt_label(pod) == str(kubestate.attempt_of(job))]
        return kubestate.run_status(name, job, current, events, time.time())

    def list(self) -> builtins.list[RunSummary]:
        """See `Backend.list`."""
        by_run: dict[str, builtins.list[Object]] = {}
        for job in self._cluster.list("PyTorchJob", labels=names.LABEL_RUN):
            by_run.setdefault(job["metadata"]["labels"][names.LABEL_RUN], []).append(job)
        found = (kubestate.summary(run, max(jobs, key=kubestate.attempt_of)) for run, jobs in by_run.items())
        return sorted(found, key=lambda summary: (-(summary.created_at or 0), summary.name))

    def logs(self, name: str, follow: bool, rank: int | None) -> Iterator[str]:
        """See `Backend.logs`."""
        self._newest(name)
        wanted = "" if rank is None else f"[rank {rank}] "
        pods = self._worker_pods(name)
        lines: Iterator[tuple[str, str]]
        if follow:
            lines = follow_logs(self._cluster, lambda: self._worker_pods(name), lambda: self._ended(name), self._sleep)
        else:
            lines = ((pod, line) for pod in pods for line in read_log(self._cluster, pod))
        several = len(pods) > 1 or follow
        for pod, line in lines:
            if line.startswith(wanted):
                yield f"[{pod.removeprefix(f'{name}-')}] {line}" if several and rank is None else line

    def stop(self, name: str) -> None:
        """See `Backend.stop`; returns when the workers have gone."""
        job = self._newest(name)
        if kubestate.state_of(job) in names.TERMINAL_STATES:
            return
        self._cluster.patch("PyTorchJob", job["metadata"]["name"], _suspension(True))
        self._wait_until(lambda: not self._worker_pods(name, running=True), f"the workers of {name} have not stopped")

    def delete(self, name: str) -> None:
        """See `Backend.delete`."""
        found = False
        for kind in RUN_KINDS:
            for item in self._present(kind, name):
                found = self._cluster.delete(kind, item["metadata"]["name"]) or found
        if not found:
            raise self._no_run(name)

    def _start(self, plan: Plan, attempt: int, action: Action) -> SubmitResult:
        for item in render(plan.spec, self._cluster.namespace, attempt=attempt):
            self._cluster.apply(item)
        return self._result(plan, attempt, action)

    def _same_again(
        self, plan: Plan, newest: Object | None, jobs: builtins.list[Object], following: int
    ) -> SubmitResult:
        """The same spec as before: leave it alone, wake it up, or start a new attempt."""
        if newest is None:
            return self._start(plan, 1, "resumed")
        attempt = kubestate.attempt_of(newest)
        state = kubestate.state_of(newest)
        if state == names.STATE_STOPPED:
            self._cluster.patch("PyTorchJob", newest["metadata"]["name"], _suspension(False))
            return self._result(plan, attempt, "resumed")
        if state == names.STATE_FAILED:
            # A failed job never runs again, and its rendezvous id may be closed for good: the next attempt gets new
            # ones. Training goes on from the newest verified checkpoint.
            self._remove_jobs(jobs)
            return self._start(plan, following, "resumed")
        return self._result(plan, attempt, "unchanged")

    def _result(self, plan: Plan, attempt: int, action: Action) -> SubmitResult:
        location = f"{self._cluster.namespace}/{names.job_name(plan.name, attempt)}"
        return SubmitResult(plan.name, action, "kubernetes", location)

    def _remove_jobs(self, jobs: builtins.list[Object]) -> None:
        """Delete the jobs and wait until they and their pods are gone, so that two attempts never overlap."""
        for job in jobs:
            self._cluster.delete("PyTorchJob", job["metadata"]["name"], foreground=True)
        left = {job["metadata"]["name"] for job in jobs}

        def gone() -> bool:
            left.difference_update([name for name in left if self._cluster.get("PyTorchJob", name) is None])
            return not left

        self._wait_until(gone, "the earlier attempts are still being deleted")

    def _wait_until(self, done: Callable[[], bool], problem: str) -> None:
        deadline = self._clock() + _GONE_SECONDS
        while not done():
            if self._clock() > deadline:
                raise UnavailableError(
                    f"{problem} after {_GONE_SECONDS:.0f} s.", hint="`clipctl status` shows which; repeat the command."
                )
            self._sleep(_POLL_SECONDS)

    def _stored_config(self, name: str) -> dict[str, Any] | None:
        """What was submitted last under this name; None if nothing was."""
        item = self._cluster.get("ConfigMap", names.config_name(name))
        if item is None:
            return None
        try:
            stored = json.loads((item.get("data") or {}).get(names.CONFIG_FILE, ""))
        except ValueError:
            stored = None
        return stored if isinstance(stored, dict) else {}

    def _newest(self, name: str) -> Object:
        job = kubestate.newest_attempt(self._jobs(name))
        if job is None:
            raise self._no_run(name)
        return job

    def _no_run(self, name: str) -> MissingError:
        return MissingError(
            f"there is no run {name} in namespace {self._cluster.namespace}.", hint="`clipctl list` shows all runs."
        )

    def _jobs(self, name: str) -> builtins.list[Object]:
        return list(self._cluster.list("PyTorchJob", labels=f"{names.LABEL_RUN}={name}"))

    def _present(self, kind: str, name: str) -> builtins.list[Object]:
        """Objects of one kind of a run; none if the cluster does not know the kind or shows it to nobody."""
        try:
            return list(self._cluster.list(kind, labels=f"{names.LABEL_RUN}={name}"))
        except (ClusterConfigError, PermissionDeniedError):
            if kind == "PodMonitor":
                return []
            raise

    def _events(self) -> builtins.list[Object]:
        """Events of the namespace; they only add detail, so having no right to read them is no error."""
        try:
            return list(self._cluster.list("Event", fields="type=Warning"))
        except PermissionDeniedError:
            return []

    def _worker_pods(self, name: str, *, running: bool = False) -> builtins.list[str]:
        pods = self._cluster.list("Pod", labels=_workers(name))
        wanted = (pod for pod in pods if not running or pod.get("status", {}).get("phase") in ("Running", "Pending"))
        return sorted(str(pod["metadata"]["name"]) for pod in wanted)

    def _ended(self, name: str) -> bool:
        ended = (*names.TERMINAL_STATES, names.STATE_STOPPED)
        newest = kubestate.newest_attempt(self._jobs(name))
        return newest is None or kubestate.state_of(newest) in ended


def _suspension(stop: bool) -> Object:
    """The one patch that stops a run, or wakes it up."""
    annotations: dict[str, str | None] = {names.ANNOTATION_STOPPED_BY: "user" if stop else None}
    if not stop:
        annotations[names.ANNOTATION_STATE] = ""
    return {"metadata": {"annotations": annotations}, "spec": {"runPolicy": {"suspend": stop}}}


def _workers(name: str) -> str:
    return f"{names.LABEL_RUN}={name},{names.LABEL_COMPONENT}={names.COMPONENT_WORKER}"


def _attempt_label(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(names.LABEL_ATTEMPT, ""))
