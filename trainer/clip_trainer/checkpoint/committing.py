"""Making a stored checkpoint real: manifest, fence, the commit record, and the hint LATEST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from clip_trainer.checkpoint.incarnation import check_fence
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import ClipError, MissingError, TryAgainError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore

_LATEST_TRIES = 5


def commit(store: ObjectStore, record: CommitRecord, manifest: Manifest, check: Callable[[], None]) -> CommitRecord:
    """Commit the checkpoint of `record`, whose objects are stored.

    Args:
        store: the run's store.
        record: all but the digest of the manifest.
        manifest: of all ranks' objects.
        check: called last before the record is created; raises to stop.

    Returns:
        The record as stored.

    Raises:
        TryAgainError: a newer incarnation owns the run, or somebody else committed this checkpoint.
        ClipError: storage does not take it.
    """
    data = manifest.to_bytes()
    store.write(layout.manifest_key(record.id), data)
    failpoint("checkpoint.manifest_stored")
    check_fence(store, record.incarnation)
    failpoint("checkpoint.fence_passed")
    check()
    record = replace(record, manifest_sha256=sha256_hex(data))
    _create(store, layout.commit_key(record.id), record)
    return record


def _create(store: ObjectStore, key: str, record: CommitRecord) -> None:
    """Create the commit record; one that is there already with the same content is ours, and its answer was lost."""
    data = record.to_bytes()
    try:
        if store.create(key, data):
            return
    except ClipError:
        if not _holds(store, key, data):
            raise
        return
    if not _holds(store, key, data):
        raise TryAgainError(f"checkpoint {record.id} was committed by somebody else.")


def _holds(store: ObjectStore, key: str, data: bytes) -> bool:
    try:
        return store.read(key) == data
    except MissingError:
        return False


def move_latest(store: ObjectStore, checkpoint: CheckpointId) -> bool:
    """Point LATEST at `checkpoint`; False if it points at one of a newer incarnation or step, where it stays.

    It is a hint for people and scripts; readers trust the commit records.

    Raises:
        ClipError: storage does not answer.
    """
    data = f"{checkpoint}\n".encode()
    for _ in range(_LATEST_TRIES):
        current = store.read_version(layout.LATEST)
        if current is None:
            moved = store.create(layout.LATEST, data)
        else:
            there = layout.parse_checkpoint_id(current[0].decode("utf-8", "replace").strip())
            if there is not None and _age(there) >= _age(checkpoint):
                return there == checkpoint
            moved = store.replace(layout.LATEST, data, current[1])
        if moved:
            failpoint("checkpoint.latest_moved")
            return True
    return False


def _age(checkpoint: CheckpointId) -> tuple[int, int]:
    """Newer incarnations own the run, whatever step an older one had reached."""
    return checkpoint.incarnation, checkpoint.step
