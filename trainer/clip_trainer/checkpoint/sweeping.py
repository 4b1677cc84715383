"""Removing what saves that were never committed have left behind."""

from __future__ import annotations

from clipctl.contract import layout
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore


def sweep(store: ObjectStore, committed: CheckpointId) -> int:
    """Delete the objects of checkpoints that were not committed and never will be, and uploads that were cut off.

    Only what is older than `committed`, this group's newest: an earlier group that still lives might commit a
    checkpoint after its objects were deleted, and that must not become the newest one.

    Returns:
        How many objects and uploads.

    Raises:
        ClipError: storage does not answer.
    """
    cut_off = [left for left in store.unfinished(layout.CHECKPOINTS) if _is_older(left.key, committed)]
    for left in cut_off:
        store.discard(left)
    keys: dict[CheckpointId, list[str]] = {}
    for info in store.list(layout.CHECKPOINTS):
        checkpoint = layout.parse_checkpoint_key(info.key)
        if checkpoint is not None and _is_older(info.key, committed):
            keys.setdefault(checkpoint, []).append(info.key)
    # Listed after the objects: what was committed in between is not taken for an orphan.
    real = set(list_checkpoints(store))
    orphans = [key for checkpoint, of in keys.items() if checkpoint not in real for key in of]
    for key in orphans:
        failpoint("checkpoint.sweep")
        store.delete(key)
    return len(cut_off) + len(orphans)


def _is_older(key: str, committed: CheckpointId) -> bool:
    checkpoint = layout.parse_checkpoint_key(key)
    return checkpoint is not None and checkpoint < committed
