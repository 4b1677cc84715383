"""The checks of `clipctl doctor`: what works, what does not, and what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from clipctl.contract.errors import ClipError, ExitCode
from clipctl.runstorage import within

_OPERATORS = ("training-operator", "clip-operator")
_STORAGE_SECONDS = 20.0
_SHM_MIB = 64

# What the commands do in a namespace: API group, resource, verbs.
NEEDED_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("kubeflow.org", "pytorchjobs", ("get", "list", "create", "patch", "delete")),
    ("apps", "deployments", ("list", "create", "patch", "delete")),
    ("", "services", ("list", "create", "patch", "delete")),
    ("", "configmaps", ("get", "list", "create", "patch", "delete")),
    ("", "serviceaccounts", ("list", "create", "patch", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
)


@dataclass(frozen=True)
class Check:
    """One result: `warn` does not keep runs from working, `fail` does."""

    name: str
    result: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""
    code: ExitCode = ExitCode.OK


def check_machine() -> Iterator[Check]:
    """What local runs and rendering need."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok", version)
    yield _helm()
    yield _trainer()
    yield _shared_memory()


def check_cluster(cluster: Any, queue: str | None) -> Iterator[Check]:
    """What runs on a cluster need; `cluster` is a `clipctl.apply.Cluster`."""
    reachable = _guard("api server", lambda: f"{cluster.server} {cluster.server_version()}")
    yield reachable
    if reachable.result == "fail":
        return
    yield _guard("PyTorchJob CRD", lambda: _listable(cluster, "PyTorchJob"))
    for name in _OPERATORS:
        yield _deployment(cluster, name)
    yield from _rights(cluster)
    if queue is not None:
        yield _guard(f"queue {queue}", lambda: _queue(cluster, queue))


def check_storage(url: str) -> Check:
    """Whether the storage at `url` answers and accepts the credentials; nothing is written."""
    from clipctl.contract.store import open_store

    def look() -> str:
        store = open_store(url)
        found = within(_STORAGE_SECONDS, lambda: len(store.list("")), f"{url} did not answer")
        return f"{store.root}: {found} objects"

    return _guard("storage", look)


def exit_code(checks: list[Check]) -> ExitCode:
    """77 if rights or credentials are all that fails, else 78; 0 if nothing fails."""
    failed = [check for check in checks if check.result == "fail"]
    if not failed:
        return ExitCode.OK
    only_rights = all(check.code == ExitCode.PERMISSION for check in failed)
    return ExitCode.PERMISSION if only_rights else ExitCode.CLUSTER_CONFIG


def failure(name: str, error: ClipError) -> Check:
    """The check that `error` kept from succeeding."""
    return Check(name, "fail", error.problem, error.hint, error.code)


def _guard(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except ClipError as error:
        return failure(name, error)


def _helm() -> Check:
    import importlib.util

    if importlib.util.find_spec("helm_python") is not None:
        return Check("helm", "ok", "embedded")
    program = shutil.which("helm")
    if program is not None:
        return Check("helm", "ok", program)
    return Check("helm", "warn", "none", "pip install 'clipctl[helm]', or put helm on PATH; needed for clusters")


def _trainer() -> Check:
    import importlib.util

    if importlib.util.find_spec("torch") is not None:
        return Check("trainer", "ok", "torch is installed")
    return Check("trainer", "warn", "torch is not installed", "pip install 'clipctl[trainer]'; needed for --local")


def _shared_memory() -> Check:
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 - the shared-memory file system itself
    except OSError:
        return Check("shared memory", "warn", "there is none", "local runs with several processes may fail")
    free = status.f_bavail * status.f_frsize >> 20
    if free < _SHM_MIB:
        return Check("shared memory", "warn", f"{free} MiB free in /dev/shm", "free some, or mount a larger one")
    return Check("shared memory", "ok", f"{free} MiB free in /dev/shm")


def _listable(cluster: Any, kind: str) -> str:
    next(iter(cluster.list(kind)), None)
    return "installed"


def _deployment(cluster: Any, name: str) -> Check:
    """Whether a Deployment of this name is ready anywhere; without the right to look, only a warning."""
    try:
        listed = cluster.list_everywhere("Deployment", fields=f"metadata.name={name}")
        found = [item for item in listed if item["metadata"]["name"] == name]
    except ClipError as error:
        return Check(name, "warn", f"cannot see it: {error.problem}", "ask somebody with cluster-wide rights")
    if not found:
        remedy = "helm install clip-operator charts/clip-operator" if name == "clip-operator" else "install it (v1.9.4)"
        result: Literal["warn", "fail"] = "warn" if name == "clip-operator" else "fail"
        detail = "not found: no retries, deadline or clean-up" if name == "clip-operator" else "not found"
        return Check(name, result, detail, remedy, ExitCode.CLUSTER_CONFIG)
    ready = [item for item in found if (item.get("status") or {}).get("readyReplicas")]
    where = ", ".join(sorted(item["metadata"]["namespace"] for item in (ready or found)))
    if ready:
        return Check(name, "ok", f"ready in {where}")
    remedy = f"kubectl -n {where} describe deployment {name}"
    return Check(name, "fail", f"not ready in {where}", remedy, ExitCode.CLUSTER_CONFIG)


def _rights(cluster: Any) -> Iterator[Check]:
    for group, resource, verbs in NEEDED_RIGHTS:
        name, _, subresource = resource.partition("/")
        label = f"may use {resource}"
        try:
            denied = [verb for verb in verbs if not cluster.allowed(verb, group, name, subresource)]
        except ClipError as error:
            yield failure(label, error)
            return
        if denied:
            remedy = f"a Role with {', '.join(denied)} on {resource}{'.' + group if group else ''}"
            yield Check(label, "fail", f"not allowed: {', '.join(denied)}", remedy, ExitCode.PERMISSION)
        else:
            yield Check(label, "ok", ", ".join(verbs))


def _queue(cluster: Any, queue: str) -> str:
    from clipctl.contract.errors import ClusterConfigError

    if cluster.get("LocalQueue", queue) is None:
        raise ClusterConfigError(
            f"there is no LocalQueue {queue} in namespace {cluster.namespace}.", hint="Create it, or name another."
        )
    return "exists"
