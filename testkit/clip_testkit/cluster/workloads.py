"""Small workloads for cluster tests; every pod meets Pod Security's `restricted` level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_testkit.cluster.kubectl import Manifest

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Label of a namespace that admits only such pods."""


def container(
    image: str, command: Sequence[str], *, name: str = "main", env: Mapping[str, str] | None = None
) -> Manifest:
    """A container without privileges, its root file system read-only, `/tmp` writable."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def pod_spec(main: Manifest, **more: Any) -> Manifest:
    """The specification of a pod with one container that cannot talk to the API server."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [main],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        **more,
    }


def pod(name: str, main: Manifest, labels: Mapping[str, str] | None = None) -> Manifest:
    """A pod that runs once."""
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(main)}


def headless_service(name: str, labels: Mapping[str, str], port: int) -> Manifest:
    """A name in DNS for the pods with these labels, also before they are ready."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": dict(labels),
        "ports": [{"name": "main", "port": port}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def elastic_job(name: str, workers: int, main: Manifest, store: str, port: int = 29400) -> Manifest:
    """A worker-only PyTorchJob that meets at an external coordinator, so that any worker may be replaced."""
    rendezvous = {"last_call_timeout": "1"}
    elastic = {
        "minReplicas": workers,
        "maxReplicas": workers,
        "maxRestarts": 3,
        "rdzvBackend": "c10d",
        "rdzvHost": store,
        "rdzvPort": port,
        "rdzvId": f"{name}-1",
        "rdzvConf": [{"key": key, "value": value} for key, value in rendezvous.items()],
    }
    worker = {
        "replicas": workers,
        "restartPolicy": "OnFailure",
        "template": {"spec": {k: v for k, v in pod_spec(main).items() if k != "restartPolicy"}},
    }
    spec = {
        "nprocPerNode": "1",  # The default, auto, is one process for each CPU.
        "elasticPolicy": elastic,
        "runPolicy": {"cleanPodPolicy": "Running"},
        "pytorchReplicaSpecs": {"Worker": worker},
    }
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name}, "spec": spec}
