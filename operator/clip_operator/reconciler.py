"""One look at one run: read, decide, do. Everything is read anew before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from clip_operator import checkpoints
from clip_operator.actions import Executor
from clip_operator.checkpoints import OpenStore, StorageProgress
from clip_operator.decisions import Action, InspectCheckpoints, Requeue
from clip_operator.metrics import RunCollector, RunSample
from clip_operator.reconcile import decide
from clip_operator.snapshot import Snapshots
from clip_operator.watching import RunKey
from clip_operator.world import CheckpointSummary, World
from clipctl.contract import names
from clipctl.contract.failpoints import failpoint
from clipctl.contract.store import open_store

RESYNC_SECONDS = 60.0
"""Longest time a run goes without being read from the API server, however silent the watches are."""

STORAGE_SECONDS = 60.0
"""Time between two cheap looks at the storage of a live run."""


@dataclass
class _Memory:
    """What is remembered of a run between two looks; only for the metrics, losing it costs nothing."""

    storage: StorageProgress = field(default_factory=StorageProgress)
    storage_read_at: float = float("-inf")
    verified: CheckpointSummary | None = None


class Reconciler:
    """Brings runs to where they should be.

    Args:
        snapshots: reads runs.
        executor: carries out actions.
        collector: gets a sample of each run.
        clock: Unix seconds.
        opener: opens the storage of a run.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        executor: Executor,
        collector: RunCollector,
        clock: Callable[[], float],
        opener: OpenStore = open_store,
    ) -> None:
        self._snapshots, self._executor, self._collector = snapshots, executor, collector
        self._clock, self._opener = clock, opener
        self._memory: dict[RunKey, _Memory] = {}

    def reconcile(self, key: RunKey, quick: World | None = None) -> float | None:
        """Look at a run once; returns when to look again, None if it is gone.

        Args:
            key: the run.
            quick: a snapshot that may be stale. If it calls for nothing but waiting, no call is made.

        Raises:
            ApiError: try again later.
            NotLeaderError: this replica must stop.
        """
        if quick is not None and quick.jobs and not _acts(decide(quick, self._clock())):
            return self._wait(key, quick, decide(quick, self._clock()))
        world = self._snapshots.live(key)
        if not world.jobs:
            self._memory.pop(key, None)
            self._collector.remove(key)
            return None
        actions = decide(world, self._clock())
        if InspectCheckpoints() in actions:
            root = world.newest.annotations.get(names.ANNOTATION_CHECKPOINT_ROOT, "")
            summary = checkpoints.inspect(root, self._opener)
            self._remember(key).verified = summary
            world = replace(self._snapshots.live(key), checkpoints=summary)  # verifying may have taken minutes
            actions = decide(world, self._clock()) if world.jobs else []
        delay = self._executor.execute(world, actions)
        failpoint("operator.acted")
        self._sample(key, world)
        return RESYNC_SECONDS if delay is None else min(delay, RESYNC_SECONDS)

    def _wait(self, key: RunKey, world: World, actions: list[Action]) -> float:
        self._sample(key, world)
        return min([RESYNC_SECONDS, *(a.after for a in actions if isinstance(a, Requeue))])

    def _remember(self, key: RunKey) -> _Memory:
        return self._memory.setdefault(key, _Memory())

    def _sample(self, key: RunKey, world: World) -> None:
        if not world.jobs:
            return
        memory, now = self._remember(key), self._clock()
        job = world.newest
        finished = job.state in names.TERMINAL_STATES
        due = memory.storage_read_at == float("-inf") if finished else now - memory.storage_read_at >= STORAGE_SECONDS
        if due:
            root = job.annotations.get(names.ANNOTATION_CHECKPOINT_ROOT, "")
            memory.storage, memory.storage_read_at = checkpoints.progress(root, self._opener), now
        self._collector.put(key, RunSample.of(world, memory.storage, memory.verified))


def _acts(actions: list[Action]) -> bool:
    return any(not isinstance(action, Requeue) for action in actions)
