"""The object store of the fake API server: resource versions, conflicts, merge patches, selectors, watch history.

Pure state behind one lock; `fakeapi.py` puts HTTP in front of it. What it does is what a real API server does for the
calls our programs make, and no more.
"""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clip_testkit.fakeapi_errors import FakeApiError, conflict, exists, gone, missing

Object = dict[str, Any]
Place = tuple[str, str]
"""Group/version and plural, for example `("kubeflow.org/v1", "pytorchjobs")`."""


@dataclass(frozen=True)
class ResourceType:
    """A resource the server knows."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True
    verbs: tuple[str, ...] = ("create", "delete", "get", "list", "patch", "update", "watch")

    @property
    def place(self) -> Place:
        """Where it is served."""
        return self.api_version, self.plural


BUILT_IN = (
    ResourceType("v1", "pods", "Pod"),
    ResourceType("v1", "services", "Service"),
    ResourceType("v1", "configmaps", "ConfigMap"),
    ResourceType("v1", "serviceaccounts", "ServiceAccount"),
    ResourceType("v1", "secrets", "Secret"),
    ResourceType("v1", "events", "Event"),
    ResourceType("v1", "namespaces", "Namespace", namespaced=False),
    ResourceType("v1", "nodes", "Node", namespaced=False),
    ResourceType("apps/v1", "deployments", "Deployment"),
    ResourceType("coordination.k8s.io/v1", "leases", "Lease"),
    ResourceType("kubeflow.org/v1", "pytorchjobs", "PyTorchJob"),
    ResourceType("monitoring.coreos.com/v1", "podmonitors", "PodMonitor"),
)


@dataclass
class FakeObjects:
    """All objects, in memory.

    Args:
        now: RFC 3339 time stamp for new objects.
        types: resources that exist; remove one to play a cluster without its CRD.
    """

    now: Callable[[], str] = lambda: "2026-01-01T00:00:00Z"
    types: dict[Place, ResourceType] = field(default_factory=lambda: {t.place: t for t in BUILT_IN})
    version: int = 100
    compacted: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    _objects: dict[tuple[Place, str, str], Object] = field(default_factory=dict)
    _history: list[tuple[int, Place, str, str, Object]] = field(default_factory=list)

    def create(self, place: Place, namespace: str, body: Object) -> Object:
        """Store a new object."""
        with self.changed:
            kind = self._type(place)
            raw = copy.deepcopy(body)
            metadata = raw.setdefault("metadata", {})
            metadata.setdefault("namespace", namespace) if kind.namespaced else None
            if "name" not in metadata and "generateName" in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            key = (place, namespace if kind.namespaced else "", metadata["name"])
            if key in self._objects:
                raise exists(kind.plural, metadata["name"])
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": metadata.get("creationTimestamp", self.now())}
            metadata["generation"] = 1
            raw |= {"apiVersion": kind.api_version, "kind": kind.kind}
            return self._commit(key, raw, "ADDED")

    def get(self, place: Place, namespace: str, name: str) -> Object:
        """One object."""
        with self.changed:
            kind = self._type(place)
            found = self._objects.get((place, namespace if kind.namespaced else "", name))
            if found is None:
                raise missing(kind.plural, name)
            return copy.deepcopy(found)

    def list(self, place: Place, namespace: str = "", selector: str = "") -> list[Object]:
        """Objects that match, sorted by name; `namespace=""` means all."""
        with self.changed:
            self._type(place)
            found = [
                copy.deepcopy(raw)
                for (where, ns, _), raw in sorted(self._objects.items())
                if where == place and namespace in ("", ns) and matches(selector, raw)
            ]
            return found

    def update(self, place: Place, namespace: str, name: str, body: Object) -> Object:
        """Replace an object; with a resource version in `body` only if it still has that one."""
        with self.changed:
            current = self.get(place, namespace, name)
            self._check_version(place, current, body)
            raw = copy.deepcopy(body)
            fixed = {k: current["metadata"][k] for k in ("uid", "creationTimestamp", "generation", "name")}
            raw["metadata"] = {**raw.get("metadata", {}), **fixed}
            return self._store_changed(place, namespace, name, current, raw)

    def merge(self, place: Place, namespace: str, name: str, patch: Object) -> Object:
        """JSON merge patch (RFC 7386)."""
        with self.changed:
            current = self.get(place, namespace, name)
            self._check_version(place, current, patch)
            if patch.get("metadata", {}).get("uid", current["metadata"]["uid"]) != current["metadata"]["uid"]:
                raise conflict(place[1], name, "the UID in the precondition does not match")
            raw = merge_patch(current, patch)
            raw["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
            return self._store_changed(place, namespace, name, current, raw)

    def apply(self, place: Place, namespace: str, name: str, body: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply, without field ownership: create, or merge into what is there."""
        with self.changed:
            try:
                current = self.get(place, namespace, name)
            except FakeApiError:
                if dry_run:
                    return copy.deepcopy(body)
                return self.create(place, namespace, body)
            patch = copy.deepcopy(body)
            patch.get("metadata", {}).pop("resourceVersion", None)
            if dry_run:
                merged: Object = merge_patch(current, patch)
                return merged
            return self.merge(place, namespace, name, patch)

    def delete(self, place: Place, namespace: str, name: str, uid: str | None = None) -> Object:
        """Remove an object at once and everything it owns; with `uid` only that very one."""
        with self.changed:
            current = self.get(place, namespace, name)
            if uid is not None and uid != current["metadata"]["uid"]:
                raise conflict(place[1], name, "the UID in the precondition does not match")
            kind = self._type(place)
            del self._objects[(place, namespace if kind.namespaced else "", name)]
            self._record(place, namespace, "DELETED", current)
            for (owned_place, owned_namespace, owned), raw in list(self._objects.items()):
                owners = raw["metadata"].get("ownerReferences", ())
                if any(owner.get("uid") == current["metadata"]["uid"] for owner in owners):
                    self.delete(owned_place, owned_namespace, owned)
            return current

    def events_after(self, place: Place, namespace: str, selector: str, since: int) -> Iterator[tuple[int, Object]]:
        """Watch events after version `since`, each with its version. Raises 410 if that is too long ago."""
        with self.changed:
            self._type(place)
            if since < self.compacted:
                raise gone(since)
            for version, where, ns, kind, raw in self._history:
                if version > since and where == place and namespace in ("", ns) and matches(selector, raw):
                    yield version, {"type": kind, "object": copy.deepcopy(raw)}

    def compact(self) -> None:
        """Forget the watch history: every watch from before is answered by 410."""
        with self.changed:
            self.version += 1
            self.compacted = self.version
            self._history.clear()

    def _type(self, place: Place) -> ResourceType:
        if place not in self.types:
            raise FakeApiError(404, "NotFound", "the server could not find the requested resource")
        return self.types[place]

    def _check_version(self, place: Place, current: Object, body: Object) -> None:
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted and wanted != current["metadata"]["resourceVersion"]:
            raise conflict(place[1], current["metadata"]["name"], "the object has been modified")

    def _store_changed(self, place: Place, namespace: str, name: str, current: Object, raw: Object) -> Object:
        if _without_version(raw) == _without_version(current):
            return current  # like a real server: writing what is there already changes nothing
        if raw.get("spec") != current.get("spec"):
            raw["metadata"]["generation"] = current["metadata"].get("generation", 1) + 1
        kind = self._type(place)
        return self._commit((place, namespace if kind.namespaced else "", name), raw, "MODIFIED")

    def _commit(self, key: tuple[Place, str, str], raw: Object, event: str) -> Object:
        self._objects[key] = raw
        self._record(key[0], key[1], event, raw)
        return copy.deepcopy(raw)

    def _record(self, place: Place, namespace: str, event: str, raw: Object) -> None:
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        self._history.append((self.version, place, namespace, event, copy.deepcopy(raw)))
        self.changed.notify_all()


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def matches(selector: str, raw: Object) -> bool:
    """Whether an object's labels match `a=b,c!=d,e,!f`."""
    labels = raw["metadata"].get("labels") or {}
    for term in filter(None, (part.strip() for part in selector.split(","))):
        name, separator, value = term.replace("==", "=").partition("=")
        if name.endswith("!"):
            fits = labels.get(name[:-1]) != value
        elif separator:
            fits = labels.get(name) == value
        elif term.startswith("!"):
            fits = term[1:] not in labels
        else:
            fits = term in labels
        if not fits:
            return False
    return True


def _without_version(raw: Object) -> Object:
    metadata = {key: value for key, value in raw["metadata"].items() if key not in ("resourceVersion", "generation")}
    return {**raw, "metadata": metadata}
