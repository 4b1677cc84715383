"""Building a `World`: from the informers' caches for a quick look, from the API server before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clip_operator.api import DEPLOYMENTS, NODES, PODS, PYTORCHJOBS, Api, ForbiddenError, NotFoundError, Object
from clip_operator.pod_view import PodView
from clip_operator.watching import Cache, RunKey
from clip_operator.world import World
from clipctl.contract import names


class Snapshots:
    """Reads the objects of a run.

    Args:
        api: the API server.
        departed: last sights of deleted pods of a run.
        clock: Unix seconds.
        read_nodes: whether the operator may read nodes; without it no pod is ever considered lost.
    """

    def __init__(
        self, api: Api, departed: Callable[[RunKey], Iterable[Object]], clock: Callable[[], float], *, read_nodes: bool
    ) -> None:
        self._api, self._departed, self._clock, self._read_nodes = api, departed, clock, read_nodes

    def cached(self, key: RunKey, jobs: Cache, pods: Cache) -> World:
        """What the informers know; may lag behind. Raises `ApiError`."""
        return self._build(key, jobs.of_run(key), pods.of_run(key))

    def live(self, key: RunKey) -> World:
        """What the API server says now. Raises `ApiError`."""
        namespace, run = key
        selector = f"{names.LABEL_RUN}={run}"
        jobs = self._api.list(PYTORCHJOBS, namespace, selector).items
        pods = self._api.list(PODS, namespace, selector).items
        return self._build(key, jobs, pods)

    def _build(self, key: RunKey, jobs: list[Object], pods: list[Object]) -> World:
        namespace, run = key
        workers = [pod for pod in pods if _is_worker(pod)]
        present = {pod["metadata"].get("uid") for pod in workers}
        left = [pod for pod in self._departed(key) if _is_worker(pod) and pod["metadata"].get("uid") not in present]
        views = [PodView.parse(pod, node_lost=self._node_lost(pod)) for pod in workers]
        views += [PodView.parse(pod, gone=True) for pod in left]
        replicas = self._rendezvous_replicas(namespace, run) if jobs else None
        return World.build(namespace, run, jobs, views, rendezvous_replicas=replicas)

    def _rendezvous_replicas(self, namespace: str, run: str) -> int | None:
        try:
            deployment = self._api.get(DEPLOYMENTS, namespace, names.rendezvous_name(run))
        except NotFoundError:
            return None
        return int((deployment.get("spec") or {}).get("replicas", 1))

    def _node_lost(self, pod: Object) -> bool:
        """Whether an overdue pod's node is absent or not ready; asked only then."""
        view = PodView.parse(pod)
        if not self._read_nodes or view.deletion_due is None or view.deletion_due > self._clock() or not view.node:
            return False
        try:
            node = self._api.get(NODES, "", view.node)
        except NotFoundError:
            return True
        except ForbiddenError:
            return False
        conditions = (node.get("status") or {}).get("conditions") or ()
        ready: dict[str, str] = {c.get("type"): c.get("status") for c in conditions}
        return ready.get("Ready") != "True"


def _is_worker(pod: Object) -> bool:
    labels: dict[str, str] = pod["metadata"].get("labels") or {}
    return labels.get(names.LABEL_COMPONENT, names.COMPONENT_WORKER) == names.COMPONENT_WORKER
