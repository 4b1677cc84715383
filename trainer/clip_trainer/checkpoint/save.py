"""Saving checkpoints while training goes on: every rank its share, then one commit record that makes it real.

`begin` copies the state beside the next step, a thread does the rest. Threads of different ranks meet in storage only
(see `shares`), so that no collective happens outside of the thread that trains.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from clip_trainer.checkpoint.background import Background, Cancellation
from clip_trainer.checkpoint.copying import ShareCopy
from clip_trainer.checkpoint.identity import Identity
from clip_trainer.checkpoint.job import SaveJob
from clip_trainer.checkpoint.objects import plan_shares, total_bytes
from clip_trainer.checkpoint.outcomes import Outcome, Saved, SaveFailed
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.staging import Staging
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.train.group import Group
from clipctl.contract.commits import CommitRecord
from clipctl.contract.errors import error_from_code
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore

__all__ = ["Checkpointer", "Identity", "SaveFailed", "Saved"]
_ASK_AGAIN_SECONDS = 0.25


class Checkpointer:
    """Saves the checkpoints of a process, of whatever group it belongs to.

    All methods belong on the thread that trains. All ranks call `start` (or `begin`) at the same step, but not in step:
    it is no collective.

    Args:
        store: the run's store.
        group: the ranks; its rank and world are read when a save begins.
        identity: goes into the commit records; replaced when there is a new incarnation.
        retention: deletes old checkpoints after a commit.
        clock: seconds since the epoch.
        parent: the checkpoint this incarnation resumed from.
        before_commit: called on rank 0, in the thread, when all shares are stored; what it stores is in storage before
            the checkpoint is committed. Its `ClipError` makes the save fail.
        monotonic: seconds, never going back.
    """

    def __init__(
        self,
        store: ObjectStore,
        group: Group,
        identity: Identity,
        retention: Retention,
        clock: Callable[[], float],
        parent: CheckpointId | None = None,
        *,
        before_commit: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self._store = store
        self._group = group
        self._retention = retention
        self._clock = clock
        self._parent = parent
        self._before_commit = before_commit
        self._monotonic = monotonic
        self._staging = Staging(pinned=group.device.type == "cuda")
        self._background = Background()
        self._cancellation = Cancellation()
        self._copy: ShareCopy | None = None
        self._outcomes: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        self._ended: list[Outcome] = []
        self._trajectory = 0

    @property
    def last(self) -> CheckpointId | None:
        """The newest checkpoint of this trajectory: what was saved last, or what was resumed from."""
        self._take_outcomes()
        return self._parent

    @property
    def busy(self) -> bool:
        """Whether a save is in flight; `start` would wait for it, and peers must not wait in a collective for that."""
        return self._background.busy

    def continue_from(self, checkpoint: CheckpointId) -> None:
        """Say that training goes on from `checkpoint`: it is the parent of what is saved next."""
        self._trajectory += 1
        self._parent = checkpoint

    def prepare(self, parts: Mapping[str, Tensors]) -> None:
        """Make room for a share of `parts` in the background, so that the first save does not wait for memory."""
        if not self.busy:
            plan = plan_shares(parts, self._group.world)[self._group.rank]
            self._staging.prepare(total_bytes(plan))

    def start(
        self,
        step: int,
        samples_consumed: int,
        parts: dict[str, Tensors],
        state: dict[str, Any],
        metrics: dict[str, float],
    ) -> float:
        """Begin to save `parts` and `state` as the checkpoint of `step`; the state may change afterwards.

        Returns:
            Seconds this took, in which training stood still.
        """
        started = self._monotonic()
        self.begin(step, samples_consumed, parts, state, metrics)
        self.before_update()
        return self._monotonic() - started

    def begin(
        self,
        step: int,
        samples_consumed: int,
        parts: dict[str, Tensors],
        state: dict[str, Any],
        metrics: dict[str, float],
    ) -> float:
        """Like `start`, but the copy goes on: call `before_update` before anything changes the tensors.

        That is the optimiser, the moving average, and whoever puts other weights into the model for a while. A forward
        pass may go on: what it changes is small and copied at once.

        Returns:
            Seconds this took.
        """
        started = self._monotonic()
        self.wait()
        self._take_outcomes()
        failpoint("checkpoint.begin")
        rank, world, identity = self._group.rank, self._group.world, self.identity
        plans = plan_shares(parts, world)
        buffer = self._staging.room(total_bytes(plans[rank]))
        self._copy = ShareCopy(parts, plans[rank], buffer)
        self._cancellation = Cancellation()
        trajectory = self._trajectory
        job = SaveJob(
            store=self._store,
            record=self._record(step, samples_consumed, metrics, identity, world),
            rank=rank,
            state=deepcopy(state) if rank == 0 else {},
            plans=plans,
            buffer=buffer,
            copy=self._copy,
            cancellation=self._cancellation,
            before_commit=self._before_commit,
            retention=self._retention,
            monotonic=self._monotonic,
            started=started,
            report=lambda outcome: self._outcomes.put((trajectory, outcome)),
        )
        self._background.start(job.run)
        return self._monotonic() - started

    def before_update(self) -> None:
        """Return when the state of a save that has begun is copied; at once if there is none."""
        if self._copy is not None:
            self._copy.finish_before_update()
            self._copy = None

    def poll(self) -> list[Outcome]:
        """What ended since the last call. Of a save that went well only rank 0 hears: it alone knows."""
        self._take_outcomes()
        ended, self._ended = self._ended, []
        return ended

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the save in flight, at most `seconds`; whether there is none any more."""
        return self._background.wait(seconds)

    def abandon(self) -> None:
        """Give up the save in flight, because the group has changed.

        It is not committed, unless its commit record is on the way already; then `poll` says so. Does not wait.
        """
        self._cancellation.cancel()
        if self._copy is not None:
            self._copy.cancel()
            self._copy = None

    def save(
        self,
        step: int,
        samples_consumed: int,
        parts: dict[str, Tensors],
        state: dict[str, Any],
        metrics: dict[str, float],
    ) -> CheckpointId:
        """Save and wait until it is committed. Collective.

        Raises:
            TryAgainError: a newer incarnation owns the run; this one must stop.
            ClipError: some rank could not store its share; nothing was committed, earlier checkpoints are untouched.
        """
        self.start(step, samples_consumed, parts, state, metrics)
        while True:
            ended = self.wait(_ASK_AGAIN_SECONDS if self._group.world > 1 else None)
            failure = next((o.error for o in self.poll() if isinstance(o, SaveFailed)), None)
            mine = None if failure is None else [failure.problem, failure.hint, int(failure.code)]
            answers = self._group.gather_json([ended, mine])
            for _, told in answers:
                if told is not None:
                    self.abandon()
                    self.wait()
                    raise error_from_code(*told)
            if all(done for done, _ in answers):
                return CheckpointId(step, self.identity.incarnation)

    def _take_outcomes(self) -> None:
        while not self._outcomes.empty():
            trajectory, outcome = self._outcomes.get()
            self._ended.append(outcome)
            if isinstance(outcome, Saved) and trajectory == self._trajectory:
                self._parent = outcome.checkpoint

    def _record(
        self, step: int, samples_consumed: int, metrics: dict[str, float], identity: Identity, world: int
    ) -> CommitRecord:
        return CommitRecord(
            run=identity.run,
            step=step,
            incarnation=identity.incarnation,
            attempt=identity.attempt,
            samples_consumed=samples_consumed,
            world_size=world,
            manifest_sha256="",
            bytes_total=0,
            spec_digest=identity.spec_digest,
            training_digest=identity.training_digest,
            parent=str(self._parent) if self._parent else None,
            created_at=self._clock(),
            writer=identity.writer,
            metrics=dict(metrics),
        )
