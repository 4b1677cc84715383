"""What follows a commit: LATEST, the policy of which checkpoints to keep, and the rests of saves that failed."""

from __future__ import annotations

from collections.abc import Callable

from clip_trainer.checkpoint.committing import move_latest
from clip_trainer.checkpoint.sweeping import sweep
from clipctl.contract.checkpoint_selector import candidates
from clipctl.contract.commits import list_checkpoints, verify
from clipctl.contract.errors import ClipError, CorruptError, MissingError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import CheckpointId
from clipctl.contract.pruning import delete_checkpoint, latest_target
from clipctl.contract.retention import Candidate, KeepPolicy, expendable, kept
from clipctl.contract.store import ObjectStore


class Retention:
    """Deletes old checkpoints after a commit; a failure to delete never stops training.

    Args:
        policy: which ones to keep.
        report: called with one sentence when a checkpoint is damaged or something could not be done.
    """

    def __init__(self, policy: KeepPolicy, report: Callable[[str], None]) -> None:
        self._policy = policy
        self._report = report
        self._verified: set[CheckpointId] = set()
        self._damaged: set[CheckpointId] = set()

    def tidy(self, store: ObjectStore, committed: CheckpointId) -> None:
        """All that follows the commit of a checkpoint. Nothing is raised: the checkpoint stays committed."""
        try:
            failpoint("checkpoint.committed")
            move_latest(store, committed)
        except ClipError as error:
            self._report(f"LATEST was not moved to {committed}: {error}")
        try:
            self.apply(store)
        except ClipError as error:
            self._report(f"old checkpoints were not deleted: {error}")
        try:
            sweep(store, committed)
        except ClipError as error:
            self._report(f"what failed saves have left was not deleted: {error}")

    def apply(self, store: ObjectStore) -> None:
        """Read back the newest ones that are not yet known to be intact, then delete what is expendable.

        Raises:
            ClipError: storage does not do it.
        """
        found, latest = self._candidates(store), latest_target(store)
        stay = kept(self._policy, found, latest)
        if len(stay) == len(found):
            return
        for checkpoint in sorted(stay)[-self._policy.last :]:
            self._check(store, checkpoint)
        for checkpoint in expendable(self._policy, found, self._verified, latest):
            delete_checkpoint(store, checkpoint)

    def _candidates(self, store: ObjectStore) -> list[Candidate]:
        """The loss costs one read for each, so it is only looked up if the policy asks for it."""
        if self._policy.best:
            return candidates(store)
        return [Candidate(checkpoint) for checkpoint in list_checkpoints(store)]

    def _check(self, store: ObjectStore, checkpoint: CheckpointId) -> None:
        if checkpoint in self._verified or checkpoint in self._damaged:
            return
        try:
            verify(store, checkpoint)
        except (CorruptError, MissingError) as error:
            self._damaged.add(checkpoint)
            self._report(f"checkpoint {checkpoint} is damaged: {error.problem}")
        else:
            self._verified.add(checkpoint)
