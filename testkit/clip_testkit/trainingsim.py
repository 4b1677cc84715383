"""A miniature of training-operator 1.9.4 and kubelet on `FakeObjects`: what our operator relies on.

- a job that is not suspended gets its worker pods; a suspended one loses them;
- restart counts of running pods add up to `backoffLimit`, or `activeDeadlineSeconds` is over: the job is Failed;
- one worker that succeeds makes an elastic job Succeeded;
- a finished job with cleanPodPolicy Running loses its running pods, finished ones stay.
"""

from __future__ import annotations

from typing import Any

from clip_testkit.fakeapi_errors import FakeApiError
from clip_testkit.fakeapi_objects import FakeObjects, Object

JOBS = ("kubeflow.org/v1", "pytorchjobs")
PODS = ("v1", "pods")


class TrainingSim:
    """Drives the jobs of `objects`; call `step` after each change."""

    def __init__(self, objects: FakeObjects) -> None:
        self._objects = objects

    def step(self) -> None:
        """Reconcile every job once."""
        for job in self._objects.list(JOBS):
            self._reconcile(job)

    def crash(self, pod: str, code: int, *, reason: str = "Error", message: str = "") -> None:
        """A worker's container ends with `code` and is restarted in place."""
        raw = self._pod(pod)
        container = raw["status"]["containerStatuses"][0]
        terminated = {"exitCode": code, "reason": reason, "message": message}
        changed = {**container, "restartCount": container["restartCount"] + 1, "lastState": {"terminated": terminated}}
        self._status(PODS, raw, {"containerStatuses": [changed]})

    def succeed(self, pod: str) -> None:
        """A worker's container ends with 0."""
        raw = self._pod(pod)
        ended = {"name": "pytorch", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}
        self._status(PODS, raw, {"phase": "Succeeded", "containerStatuses": [ended]})

    def pods(self, job: str) -> list[Object]:
        """The worker pods of a job."""
        return self._objects.list(PODS, selector=f"training.kubeflow.org/job-name={job}")

    def _pod(self, name: str) -> Object:
        return next(pod for pod in self._objects.list(PODS) if pod["metadata"]["name"] == name)

    def _reconcile(self, job: Object) -> None:
        policy = job["spec"].get("runPolicy", {})
        pods = self.pods(job["metadata"]["name"])
        if is_true(job, "Succeeded") or is_true(job, "Failed"):
            self._delete([pod for pod in pods if pod["status"]["phase"] in ("Running", "Pending")])
            return
        if policy.get("suspend"):
            self._delete(pods)
            self._condition(job, "Suspended")
            return
        started = job.get("status", {}).get("startTime")
        if started and (policy.get("activeDeadlineSeconds") == 0 or self._past_backoff(job, pods)):
            self._condition(job, "Failed", completionTime=self._objects.now())
            self._reconcile(self._objects.get(JOBS, job["metadata"]["namespace"], job["metadata"]["name"]))
            return
        if any(pod["status"]["phase"] == "Succeeded" for pod in pods):
            self._condition(job, "Succeeded", completionTime=self._objects.now())
            return
        self._create_pods(job, pods)
        self._condition(job, "Running", startTime=started or self._objects.now())

    def _past_backoff(self, job: Object, pods: list[Object]) -> bool:
        limit = job["spec"]["runPolicy"].get("backoffLimit")
        running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        restarts = sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in running)
        return limit is not None and restarts >= max(limit, 1)

    def _create_pods(self, job: Object, pods: list[Object]) -> None:
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        present = {pod["metadata"]["name"] for pod in pods}
        for index in range(worker["replicas"]):
            pod = f"{name}-worker-{index}"
            if pod in present:
                continue
            labels = {**worker["template"]["metadata"].get("labels", {}), "training.kubeflow.org/job-name": name}
            metadata = {
                "name": pod,
                "labels": labels,
                "ownerReferences": [{"uid": job["metadata"]["uid"], "kind": "PyTorchJob", "name": name}],
            }
            status = {"phase": "Running", "containerStatuses": [{"name": "pytorch", "restartCount": 0, "state": {}}]}
            body = {"metadata": metadata, "spec": worker["template"]["spec"], "status": status}
            self._objects.create(PODS, namespace, body)

    def _delete(self, pods: list[Object]) -> None:
        for pod in pods:
            self._objects.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _condition(self, job: Object, kind: str, **status: Any) -> None:
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": self._objects.now()}]
        old = [c for c in job.get("status", {}).get("conditions", ()) if c["type"] == kind]
        self._status(JOBS, job, {"conditions": old or conditions, **status})

    def _status(self, place: tuple[str, str], raw: Object, status: Object) -> None:
        metadata = raw["metadata"]
        try:
            self._objects.merge(place, metadata["namespace"], metadata["name"], {"status": status})
        except FakeApiError:
            return  # deleted meanwhile


def is_true(job: Object, condition: str) -> bool:
    """Whether a job has a condition."""
    conditions = job.get("status", {}).get("conditions", ())
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)
