"""Snapshots of a sharded run in its ranks' memory: when they are made, and whether to go on from one.

Ranks of a replicated run have everything anyway, so those make none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from clip_trainer.checkpoint.memory_keep import SnapshotKeeper
from clip_trainer.checkpoint.memory_restore import newest_whole, read_snapshot
from clip_trainer.checkpoint.memory_shares import SnapshotId
from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.elastic.progress import report_progress
from clip_trainer.train import takeover
from clip_trainer.train.memory_message import become, message_of
from clip_trainer.train.run import Run
from clip_trainer.train.wishes import Wishes
from clipctl.contract import layout, metric_names
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import CheckpointId


class PeerMemory:
    """The snapshots of one generation.

    Args:
        run: what is copied.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._keeper = None if run.memory is None else SnapshotKeeper(run.group, run.memory, run.node)

    @classmethod
    def begin(cls, run: Run) -> PeerMemory:
        """Copy the state before the first step: what is left of the last copy may all be on one node. Collective."""
        memory = cls(run)
        memory._keep()
        return memory

    def keep(self, agreed: Wishes) -> bool:
        """Copy the state if that is due, or if ranks are about to leave; whether it was done. Collective.

        Args:
            agreed: what the ranks have told each other at the end of the step.
        """
        every = self._run.spec.checkpoint.memory_steps
        due = every is not None and self._run.state.step % every == 0
        return self._keep() if due or agreed.preempted or agreed.regroup else False

    def _keep(self) -> bool:
        run = self._run
        if self._keeper is None or self._keeper.shortage is not None:
            return False
        started = time.monotonic()
        beacon().phase("save", run.state.step)
        parts, trained = run.trainable.collect()
        snapshot = SnapshotId(run.incarnation, run.state.step, run.group.world)
        kept = self._keeper.keep(snapshot, parts, message_of(run, trained))
        if kept:
            report_progress(run.state.step)
            run.metrics[metric_names.TRAIN_SNAPSHOT_STALL].observe(time.monotonic() - started)
        else:
            why = f"{self._keeper.shortage} (scale.resources.shm)"
            message = f"the state is not copied to the memory of nodes, a loss is made good from storage: {why}"
            run.events.tell("no_snapshots", message, step=run.state.step)
        return kept


def go_on_from_memory(run: Run) -> bool:
    """Become the newest state that is whole in the ranks' memory, if no checkpoint is newer; whether. Collective.

    Every rank has the same new incarnation number.
    """
    found = newest_whole(run.group, run.memory, lambda snapshot: _is_newest(run, snapshot))
    if found is None:
        return False
    failpoint("memory.restoring")
    known = run.group.gather_json([run.state.recoveries, run.state.lost_seconds])
    message, tensors = read_snapshot(run.group, run.memory, found, run.trainable.room)
    become(run, message, tensors)
    committed = run.group.on_first(lambda: _newest_commit(run))
    if committed is not None:
        run.checkpointer.continue_from(CheckpointId(*committed))
    for recoveries, lost_seconds in known:  # what changes of the group have cost since the snapshot is still true
        _raise_to(run.state.recoveries, recoveries)
        _raise_to(run.state.lost_seconds, lost_seconds)
    takeover.take_over(run, found.snapshot.incarnation)
    run.events.try_flush()  # so that nobody who comes back later takes a snapshot from before for the newest
    failpoint("memory.restored")
    return True


def _raise_to(counts: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Make each count at least what somebody else has."""
    for name, value in others.items():
        counts[name] = max(counts.get(name, 0), value)


def _is_newest(run: Run, snapshot: SnapshotId) -> bool:
    """Whether a snapshot lies on the run's trajectory, and no commit is further.

    Work after it may be lost; but if a later incarnation has begun elsewhere, a snapshot of this one may be of a branch
    that was given up. Nodes that were cut off for a while have such.
    """
    later = range(snapshot.incarnation + 1, run.incarnation)
    if any(next(iter(run.store.list(layout.events_prefix(number))), None) is not None for number in later):
        return False
    committed = _newest_commit(run)
    return committed is None or snapshot.step >= committed[0]


def _newest_commit(run: Run) -> tuple[int, int] | None:
    """Step and incarnation."""
    found = max(list_checkpoints(run.store), default=None)
    return None if found is None else (found.step, found.incarnation)
