"""The running operator: informers feed the queue, workers reconcile, as long as this replica holds the Lease."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from clip_operator.actions import Executor, NotLeaderError
from clip_operator.api import PODS, PYTORCHJOBS, Api, ApiError, ConflictError, Resource
from clip_operator.checkpoints import OpenStore
from clip_operator.metrics import OperatorMetrics
from clip_operator.reconciler import RESYNC_SECONDS, Reconciler
from clip_operator.snapshot import Snapshots
from clip_operator.watching import Informer, RunKey
from clip_operator.workqueue import WorkQueue
from clip_operator.world import World
from clipctl.contract.store import open_store

logger = logging.getLogger(__name__)

RELIST_SECONDS = 600.0


@dataclass(frozen=True)
class Scope:
    """Where the operator works: these namespaces, or all if there are none; and whether it may read nodes."""

    namespaces: tuple[str, ...] = ()
    read_nodes: bool = True


class Controller:
    """All parts of the operator but leader election, logging and HTTP.

    Args:
        api: the API server.
        scope: where to work.
        metrics: gets samples and counts.
        may_act: whether this replica holds the Lease.
        opener: opens the storage of a run.
    """

    def __init__(
        self,
        api: Api,
        scope: Scope,
        metrics: OperatorMetrics,
        may_act: Callable[[], bool],
        opener: OpenStore = open_store,
    ) -> None:
        self._metrics, self._may_act = metrics, may_act
        self.queue: WorkQueue[RunKey] = WorkQueue(time.monotonic, lambda: 1.0 + random.random())  # noqa: S311
        metrics.queue_depth.set_function(lambda: len(self.queue))
        self._jobs = {ns: self._informer(api, PYTORCHJOBS, ns) for ns in scope.namespaces or ("",)}
        self._pods = {ns: self._informer(api, PODS, ns) for ns in scope.namespaces or ("",)}
        self._snapshots = Snapshots(api, self._departed, time.time, read_nodes=scope.read_nodes)
        executor = Executor(api, time.time, may_act)
        self._reconciler = Reconciler(self._snapshots, executor, metrics.runs, time.time, opener)
        self._read_at: dict[RunKey, float] = {}
        self._stopping = threading.Event()

    @property
    def problem(self) -> str:
        """Why the operator is not ready; empty if it is."""
        informers = (*self._jobs.values(), *self._pods.values())
        problems = [informer.problem for informer in informers if informer.problem]
        if problems:
            return problems[0]
        return "" if all(informer.synced.is_set() for informer in informers) else "the first listing is not done"

    def start(self, workers: int) -> list[threading.Thread]:
        """Start all threads; they end after `stop`."""
        threads = [
            threading.Thread(target=informer.run, args=(self._stopping, RELIST_SECONDS, time.monotonic), daemon=True)
            for informer in (*self._jobs.values(), *self._pods.values())
        ]
        threads += [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        return threads

    def stop(self) -> None:
        """End the workers after what they are doing."""
        self._stopping.set()
        self.queue.close()

    def process(self, key: RunKey) -> None:
        """Reconcile one run and put it back into the queue as its outcome asks."""
        try:
            with self._metrics.reconcile_seconds.time():
                again = self._reconciler.reconcile(key, self._quick(key))
        except ApiError as error:
            self._metrics.reconcile_errors.labels(error.reason).inc()
            wait = self.queue.failed(key, error.retry_after)
            # Losing a race is everyday business; everything else deserves attention.
            level = logging.INFO if isinstance(error, ConflictError) else logging.WARNING
            logger.log(level, "reconcile failed", extra={"run": "/".join(key), "error": str(error), "again_in": wait})
            return
        except NotLeaderError:
            self.queue.failed(key)
            return
        except Exception:
            # A defect of ours must not stop the other runs.
            self._metrics.reconcile_errors.labels("Bug").inc()
            self.queue.failed(key)
            logger.exception("reconcile crashed", extra={"run": "/".join(key)})
            return
        if again is None:
            self._forget(key)
        self.queue.done(key, again)

    def _work(self) -> None:
        while (key := self.queue.take()) is not None:
            if self._may_act():
                self.process(key)
            else:
                self.queue.done(key, RESYNC_SECONDS / 30)

    def _informer(self, api: Api, resource: Resource, namespace: str) -> Informer:
        restarts = self._metrics.watch_restarts
        return Informer(
            api,
            resource,
            namespace,
            self.queue.add,
            lambda plural: restarts.labels(plural).inc(),
        )

    def _quick(self, key: RunKey) -> World | None:
        """A snapshot from the caches, unless the run is due for a real look."""
        now = time.monotonic()
        if now - self._read_at.get(key, float("-inf")) >= RESYNC_SECONDS * 0.9:
            self._read_at[key] = now
            return None
        jobs, pods = self._of(self._jobs, key), self._of(self._pods, key)
        return self._snapshots.cached(key, jobs.cache, pods.cache)

    def _departed(self, key: RunKey) -> list[dict[str, object]]:
        return self._of(self._pods, key).cache.departed(key)

    def _forget(self, key: RunKey) -> None:
        self._read_at.pop(key, None)
        self._of(self._pods, key).cache.forget(key)
        self._of(self._jobs, key).cache.forget(key)

    def _of(self, informers: dict[str, Informer], key: RunKey) -> Informer:
        return informers.get(key[0]) or informers[""]
