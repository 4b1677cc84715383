"""What the operator needs from a Kubernetes API server: raw dicts, a few verbs, typed errors.

Only `kube.py` knows the client library; everything else works against `Api`, so tests can crash, delay and falsify
any call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True)
class Resource:
    """One resource type of the API server."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """`apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version


PYTORCHJOBS = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
SERVICES = Resource("", "v1", "services", "Service")
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
POD_MONITORS = Resource("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor")
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


class ApiError(Exception):
    """The API server refused or did not answer; the base of the errors below.

    Args:
        message: what was asked and what came back.
        retry_after: seconds the server asked to wait; 0 if it did not say.
    """

    reason = "Error"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFoundError(ApiError):
    """404: the object, or its resource type (CRD), does not exist."""

    reason = "NotFound"


class ConflictError(ApiError):
    """409 on a write: the object changed since it was read. Read again and decide again."""

    reason = "Conflict"


class AlreadyExistsError(ApiError):
    """409 on a create: an object of that name exists."""

    reason = "AlreadyExists"


class GoneError(ApiError):
    """410: the resource version is too old. List again."""

    reason = "Gone"


class ForbiddenError(ApiError):
    """401 or 403: credentials or RBAC refuse."""

    reason = "Forbidden"


class RefusedError(ApiError):
    """400 or 422: the server will never accept this request."""

    reason = "Refused"


class UnreachableError(ApiError):
    """429, 5xx, timeout or broken connection: ask again later."""

    reason = "Unreachable"


@dataclass(frozen=True)
class Listing:
    """All objects of a list call and the version a watch can start from."""

    items: list[Object]
    resource_version: str


class Api(Protocol):
    """The verbs. Every call has a deadline and raises one of the errors above; `namespace=""` means all of them."""

    def list(self, resource: Resource, namespace: str, selector: str = "") -> Listing:
        """Objects that match a label selector."""
        ...

    def watch(self, resource: Resource, namespace: str, selector: str, since: str) -> Iterator[Object]:
        """Watch events after version `since`, until the server ends the stream. Raises `GoneError` if too old."""
        ...

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises `NotFoundError`."""
        ...

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Make an object. Raises `AlreadyExistsError`."""
        ...

    def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Write a whole object if it still has `body`'s resource version. Raises `ConflictError`."""
        ...

    def patch(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """JSON merge patch; with `metadata.resourceVersion` in it, only if unchanged. Raises `ConflictError`."""
        ...

    def delete(self, resource: Resource, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """Delete the object if it still has `uid`; no error if it is gone already."""
        ...
