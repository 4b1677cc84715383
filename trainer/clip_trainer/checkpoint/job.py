"""The part of a save that happens in the background: from staged bytes to a committed checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from clip_trainer.checkpoint.background import AbandonedError, Cancellation, yield_to_training
from clip_trainer.checkpoint.committing import commit
from clip_trainer.checkpoint.copying import ShareCopy
from clip_trainer.checkpoint.objects import PlannedObject
from clip_trainer.checkpoint.outcomes import Outcome, Saved, SaveFailed
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.shares import Patience, gather
from clip_trainer.checkpoint.uploading import upload
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest
from clipctl.contract.errors import ClipError, InternalError, error_from_code
from clipctl.contract.failpoints import failpoint
from clipctl.contract.share import Share
from clipctl.contract.store import ObjectStore


@dataclass(frozen=True)
class SaveJob:
    """Everything a save needs once it has begun; nothing in it changes when the group does.

    Attributes:
        store: the run's store.
        record: what will be committed, as far as it is known; its `world_size` is the number of shares.
        rank: this one's.
        state: what is not a tensor.
        plans: layout of every rank's share.
        buffer: where this rank's share is copied.
        copy: that copy.
        cancellation: set when the group has changed.
        before_commit: what must be stored before the commit record is.
        retention: deletes old checkpoints afterwards.
        monotonic: seconds, never going back.
        started: when the save began, on that clock.
        report: takes the outcome; called at most once.
    """

    store: ObjectStore
    record: CommitRecord
    rank: int
    state: dict[str, object]
    plans: Sequence[Sequence[PlannedObject]]
    buffer: torch.Tensor
    copy: ShareCopy
    cancellation: Cancellation
    before_commit: Callable[[], None]
    retention: Retention
    monotonic: Callable[[], float]
    started: float
    report: Callable[[Outcome], None]

    def run(self) -> None:
        """Do it all; nothing is raised. An abandoned save has no outcome, nor have ranks whose share is stored."""
        try:
            self.copy.run()
            yield_to_training()
            share = self._store_share()
            committed = self._commit(share) if self.rank == 0 else None
        except AbandonedError:
            return
        except ClipError as error:
            self._fail(error)
            return
        except Exception as error:  # else nobody would hear of it: this is the bottom of a thread
            self._fail(InternalError(f"saving ended with {type(error).__name__}: {error}."))
            return
        if committed is not None:
            seconds = self.monotonic() - self.started
            self.report(Saved(committed.id, seconds, committed.bytes_total))
            self.retention.tidy(self.store, committed.id)

    def _store_share(self) -> Share:
        prefix = layout.checkpoint_prefix(self.record.id)
        check = self.cancellation.check
        stored = upload(self.store, prefix, self.plans[self.rank], self.buffer, check)
        share = Share(self.record.id, self.rank, self.record.world_size, tuple(stored))
        check()
        failpoint("checkpoint.before_share")
        self.store.write(share.key, share.to_bytes())
        failpoint("checkpoint.share_stored")
        return share

    def _commit(self, own: Share) -> CommitRecord:
        expected = [{planned.name: planned.size for planned in plan} for plan in self.plans]
        patience = Patience(self.monotonic, self.cancellation.pause)
        objects = gather(self.store, own, expected, patience)
        failpoint("checkpoint.shares_gathered")
        self.cancellation.check()
        self.before_commit()
        failpoint("checkpoint.before_commit")
        record = replace(self.record, bytes_total=sum(stored.size for stored in objects))
        return commit(self.store, record, Manifest(tuple(objects), self.state), self.cancellation.check)

    def _fail(self, error: ClipError) -> None:
        who = f"rank {self.rank}: " if self.record.world_size > 1 else ""
        problem = f"checkpoint {self.record.id} was not stored: {who}{error.problem}"
        self.report(SaveFailed(self.record.id, error_from_code(problem, error.hint, error.code)))
