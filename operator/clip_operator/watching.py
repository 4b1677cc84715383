"""A local copy of a resource, kept by list and watch, and rebuilt whenever the watch can no longer be trusted.

`Cache` holds the rules and does no IO; `Informer` drives it. Events only say which run to look at, so a lost or
repeated one does no harm.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from clip_operator.api import Api, ApiError, ForbiddenError, GoneError, NotFoundError, Object, Resource
from clipctl.contract import names

RunKey = tuple[str, str]
"""Namespace and run name."""

_DEPARTED_PER_RUN = 32


def run_key(raw: Object) -> RunKey:
    """The run an object belongs to."""
    metadata = raw["metadata"]
    return metadata.get("namespace", ""), (metadata.get("labels") or {}).get(names.LABEL_RUN, "")


class Cache:
    """Objects by namespace and name, and by run; thread-safe.

    Deleted objects are remembered for a while: the last status of a deleted pod tells why it failed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], Object] = {}
        self._runs: dict[RunKey, set[tuple[str, str]]] = {}
        self._departed: dict[RunKey, deque[Object]] = {}
        self.version = ""

    def replace(self, items: Iterable[Object], version: str) -> set[RunKey]:
        """Take over a fresh listing; returns the runs in it and those that lost something (missed deletions)."""
        with self._lock:
            fresh = {_name(item): item for item in items}
            lost = [raw for name, raw in self._objects.items() if name not in fresh]
            for raw in lost:
                self._remove(raw)
            for raw in fresh.values():
                self._put(raw)
            self.version = version
            return {run_key(raw) for raw in (*lost, *fresh.values())}

    def apply(self, event: Object) -> RunKey | None:
        """Take over a watch event; returns the run it is about, None for bookmarks and unknown types."""
        kind, raw = event.get("type"), event.get("object") or {}
        with self._lock:
            self.version = (raw.get("metadata") or {}).get("resourceVersion") or self.version
            if kind in ("ADDED", "MODIFIED"):
                self._put(raw)
            elif kind == "DELETED":
                self._remove(raw)
            else:
                return None
            return run_key(raw)

    def of_run(self, key: RunKey) -> list[Object]:
        """The objects of one run."""
        with self._lock:
            return [self._objects[name] for name in self._runs.get(key, ())]

    def departed(self, key: RunKey) -> list[Object]:
        """The last sight of deleted objects of one run, oldest first."""
        with self._lock:
            return list(self._departed.get(key, ()))

    def runs(self) -> set[RunKey]:
        """All runs that have an object."""
        with self._lock:
            return set(self._runs)

    def forget(self, key: RunKey) -> None:
        """Drop what is remembered of a run that no longer exists."""
        with self._lock:
            self._departed.pop(key, None)

    def _put(self, raw: Object) -> None:
        name = _name(raw)
        previous = self._objects.get(name)
        if previous is not None and run_key(previous) != run_key(raw):
            self._runs[run_key(previous)].discard(name)  # somebody changed its labels
        self._objects[name] = raw
        self._runs.setdefault(run_key(raw), set()).add(name)

    def _remove(self, raw: Object) -> None:
        name, key = _name(raw), run_key(raw)
        self._objects.pop(name, None)
        members = self._runs.get(key, set())
        members.discard(name)
        if not members:
            self._runs.pop(key, None)
        self._departed.setdefault(key, deque(maxlen=_DEPARTED_PER_RUN)).append(raw)


class Informer:
    """Keeps a `Cache` up to date and reports each run that may have changed.

    Args:
        api: the API server.
        resource: what to watch.
        namespace: where; empty for all namespaces.
        on_change: called with each run that may have changed.
        on_restart: called each time the watch starts over after an error.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        namespace: str,
        on_change: Callable[[RunKey], None],
        on_restart: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._api, self._resource, self._namespace = api, resource, namespace
        self._on_change, self._on_restart = on_change, on_restart
        self.cache = Cache()
        self.synced = threading.Event()
        self.problem = ""

    def sync(self) -> None:
        """List everything. Raises `ApiError`."""
        listing = self._api.list(self._resource, self._namespace, names.LABEL_RUN)
        for key in self.cache.replace(listing.items, listing.resource_version):
            self._on_change(key)
        self.problem = ""
        self.synced.set()

    def follow(self) -> None:
        """Apply watch events until the server ends the stream. Raises `ApiError`."""
        watch = self._api.watch(self._resource, self._namespace, names.LABEL_RUN, self.cache.version)
        for event in watch:
            key = self.cache.apply(event)
            if key is not None:
                self._on_change(key)

    def run(self, stopping: threading.Event, relist_seconds: float, clock: Callable[[], float]) -> None:
        """List and watch until told to stop: list again on 410, on any error, and every `relist_seconds`."""
        failures, listed_at = 0, None
        while not stopping.is_set():
            try:
                if listed_at is None or clock() - listed_at >= relist_seconds:
                    self.sync()
                    listed_at = clock()
                self.follow()
                failures = 0
            except ApiError as error:
                listed_at = None
                self._on_restart(self._resource.plural)
                if isinstance(error, GoneError):
                    continue
                self.problem = explain(self._resource, error)
                if isinstance(error, ForbiddenError | NotFoundError):
                    self.synced.clear()
                stopping.wait(max(min(2.0**failures, 30.0), error.retry_after))
                failures += 1


def explain(resource: Resource, error: ApiError) -> str:
    """One sentence for logs and /readyz, with the remedy where there is one."""
    if isinstance(error, NotFoundError):
        return f"the cluster has no {resource.plural}.{resource.group}: install Kubeflow training-operator 1.9"
    if isinstance(error, ForbiddenError):
        return f"not allowed to list and watch {resource.plural}: apply the Role of charts/clip-operator ({error})"
    return str(error)


def _name(raw: Object) -> tuple[str, str]:
    metadata = raw["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
