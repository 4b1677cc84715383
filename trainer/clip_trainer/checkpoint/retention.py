"""Which checkpoints to keep: the newest K, and never fewer than two that were read back and found intact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from clipctl.contract import layout
from clipctl.contract.commits import list_checkpoints, verify
from clipctl.contract.errors import ClipError, CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore

MINIMUM_VERIFIED = 2


def expendable(checkpoints: Sequence[CheckpointId], keep: int, verified: Iterable[CheckpointId]) -> list[CheckpointId]:
    """Checkpoints that may be deleted, oldest first; none unless two of those that stay are verified.

    Args:
        checkpoints: all committed ones, oldest first.
        keep: how many of the newest to keep.
        verified: those known to be intact.
    """
    kept = set(checkpoints[-keep:])
    if len(kept & set(verified)) < MINIMUM_VERIFIED:
        return []
    return [checkpoint for checkpoint in checkpoints if checkpoint not in kept]


class Retention:
    """Deletes old checkpoints after a commit; a failure to delete never stops training.

    Args:
        keep: how many of the newest to keep.
        report: called with one sentence when a checkpoint is damaged or could not be deleted.
    """

    def __init__(self, keep: int, report: Callable[[str], None]) -> None:
        self._keep = keep
        self._report = report
        self._verified: set[CheckpointId] = set()
        self._damaged: set[CheckpointId] = set()

    def apply(self, store: ObjectStore) -> None:
        """Read back what is kept and not yet known to be intact, then delete what is expendable."""
        try:
            checkpoints = list_checkpoints(store)
            if len(checkpoints) <= self._keep:
                return
            for checkpoint in checkpoints[-self._keep :]:
                self._check(store, checkpoint)
            for checkpoint in expendable(checkpoints, self._keep, self._verified):
                delete_checkpoint(store, checkpoint)
        except ClipError as error:
            self._report(f"old checkpoints were not deleted: {error}")

    def _check(self, store: ObjectStore, checkpoint: CheckpointId) -> None:
        if checkpoint in self._verified or checkpoint in self._damaged:
            return
        try:
            verify(store, checkpoint)
        except CorruptError as error:
            self._damaged.add(checkpoint)
            self._report(f"checkpoint {checkpoint} is damaged: {error.problem}")
        else:
            self._verified.add(checkpoint)


def delete_checkpoint(store: ObjectStore, checkpoint: CheckpointId) -> None:
    """Remove the commit record first, so that no reader sees a checkpoint that is half gone; then its objects."""
    store.delete(layout.commit_key(checkpoint))
    for info in store.list(layout.checkpoint_prefix(checkpoint)):
        store.delete(info.key)
