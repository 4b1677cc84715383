"""The kinds of objects clipctl handles, and their places in the API."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of object: API version and plural name; all but a few live in namespaces."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str, name: str = "") -> str:
        """URL path of one object, or of the collection."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


_ALL = (
    Kind("PyTorchJob", "kubeflow.org/v1", "pytorchjobs"),
    Kind("Deployment", "apps/v1", "deployments"),
    Kind("Service", "v1", "services"),
    Kind("ConfigMap", "v1", "configmaps"),
    Kind("ServiceAccount", "v1", "serviceaccounts"),
    Kind("PodMonitor", "monitoring.coreos.com/v1", "podmonitors"),
    Kind("Pod", "v1", "pods"),
    Kind("Event", "v1", "events"),
    Kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False),
    Kind("SelfSubjectAccessReview", "authorization.k8s.io/v1", "selfsubjectaccessreviews", namespaced=False),
    Kind("LocalQueue", "kueue.x-k8s.io/v1beta1", "localqueues"),
)
KINDS = {kind.kind: kind for kind in _ALL}

RUN_KINDS = ("PyTorchJob", "Deployment", "Service", "PodMonitor", "ConfigMap", "ServiceAccount")
"""Kinds a run consists of, in the order they are deleted: the job first, so that nothing restarts its workers."""
