"""Objects of a run for tests of the operator, in the shape the chart clip-run gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clip_testkit.fakeapi_objects import FakeObjects, Object
from clipctl.contract import names

NAMESPACE = "team"
RUN = "demo"
DIGEST = "d1" * 32
BUDGET = {"out_of_memory": 1, "preemption": 3, "node_lost": 3, "hang": 2, "infrastructure": 2}


def retry(**changes: Any) -> dict[str, Any]:
    """A `retry` section."""
    values = {"attempts": BUDGET, "restarts_in_place": 0, "backoff_seconds": 10}
    return {**values, "deadline_seconds": None, "ttl_seconds": None, **changes}


def job(
    attempt: int = 1,
    *,
    retry_section: Mapping[str, Any] | None = None,
    root: str = "s3://bucket/runs/demo",
    workers: int = 2,
    **annotations: str,
) -> Object:
    """A PyTorchJob; `annotations` are named without domain, with `_` for `-`."""
    labels = {names.LABEL_RUN: RUN, names.LABEL_ATTEMPT: str(attempt), names.LABEL_COMPONENT: names.COMPONENT_WORKER}
    extra = {f"{names.DOMAIN}/{key.replace('_', '-')}": value for key, value in annotations.items()}
    container = {
        "name": names.CONTAINER,
        "image": "clip:1",
        "env": [{"name": names.ENV_ATTEMPT, "value": str(attempt)}],
    }
    template = {
        "metadata": {"labels": dict(labels)},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 60},
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": names.job_name(RUN, attempt),
            "namespace": NAMESPACE,
            "uid": f"job-{attempt}",
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels,
            "annotations": {
                names.ANNOTATION_SPEC_DIGEST: DIGEST,
                names.ANNOTATION_CHECKPOINT_ROOT: root,
                names.ANNOTATION_RETRY: json.dumps(retry_section or retry()),
                **extra,
            },
        },
        "spec": {
            "runPolicy": {"suspend": False, "backoffLimit": 100, "cleanPodPolicy": "Running"},
            "elasticPolicy": {"rdzvId": names.rendezvous_id(RUN, DIGEST, attempt)},
            "pytorchReplicaSpecs": {"Worker": {"replicas": workers, "template": template}},
        },
    }


def with_condition(raw: Object, kind: str, at: str = "2026-01-01T01:00:00Z") -> Object:
    """The job with a condition that became true at `at`."""
    condition = {"type": kind, "status": "True", "lastTransitionTime": at}
    status: Object = {"conditions": [condition]}
    if kind in ("Succeeded", "Failed"):
        status["completionTime"] = at
    return {**raw, "status": status}


def pod(attempt: int = 1, index: int = 0, *, phase: str = "Running", **container: Any) -> Object:
    """A worker pod; `container` are fields of its container's status."""
    labels = {names.LABEL_RUN: RUN, names.LABEL_ATTEMPT: str(attempt), names.LABEL_COMPONENT: names.COMPONENT_WORKER}
    name = names.worker_pod_name(RUN, attempt, index)
    status = {"name": names.CONTAINER, "restartCount": 0, "state": {}, **container}
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"pod-{attempt}-{index}", "labels": labels},
        "spec": {"nodeName": f"node-{index}"},
        "status": {"phase": phase, "containerStatuses": [status]},
    }


def terminated(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """A container's terminated state."""
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def install(objects: FakeObjects, raw: Object) -> None:
    """Submit a run: its job, and the other objects of the chart."""
    labels = {names.LABEL_RUN: RUN}

    def make(api_version: str, plural: str, name: str, **fields: Any) -> None:
        objects.create((api_version, plural), NAMESPACE, {"metadata": {"name": name, "labels": labels}, **fields})

    make("v1", "serviceaccounts", RUN)
    make("v1", "configmaps", names.config_name(RUN))
    make("v1", "services", names.rendezvous_name(RUN))
    make("apps/v1", "deployments", names.rendezvous_name(RUN), spec={"replicas": 1})
    body = {**raw, "metadata": {k: v for k, v in raw["metadata"].items() if k not in ("uid", "resourceVersion")}}
    objects.create(("kubeflow.org/v1", "pytorchjobs"), NAMESPACE, body)
