"""Reading checkpoints: which are committed, which of them are intact, and their bytes.

A checkpoint is a set of immutable objects, then a manifest with their digests (`manifest`), then one *commit record*
created with create-if-absent (`commit_record`). Until the record exists the checkpoint does not; a record that exists
but whose bytes do not verify is rejected visibly and the one before it is used. Nothing here is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from clipctl.contract import layout
from clipctl.contract.commit_record import CommitRecord
from clipctl.contract.digest import chunk_digests, sha256_hex
from clipctl.contract.errors import ClipError, CorruptError, MissingError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, Piece, StoredObject
from clipctl.contract.store import ObjectStore
from clipctl.contract.tensor_entry import TensorEntry

__all__ = [
    "CommitRecord",
    "Manifest",
    "Piece",
    "Rejection",
    "StoredObject",
    "TensorEntry",
    "all_damaged",
    "iterate_verified",
    "latest_target",
    "list_checkpoints",
    "newest",
    "newest_verified",
    "read_commit",
    "read_manifest",
    "read_object",
    "read_piece",
    "read_range",
    "verify",
]

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Rejection:
    """A committed checkpoint that did not verify, and why."""

    checkpoint: CheckpointId
    problem: str


def list_checkpoints(store: ObjectStore) -> list[CheckpointId]:
    """All committed checkpoints, oldest first. LATEST is only a hint for people; commits are the truth."""
    ids = (layout.parse_commit_key(info.key) for info in store.list(layout.COMMITS))
    return sorted(checkpoint for checkpoint in ids if checkpoint is not None)


def latest_target(store: ObjectStore) -> CheckpointId | None:
    """Where LATEST points; None if it does not exist or says nothing sensible."""
    found = store.read_version(layout.LATEST)
    if found is None:
        return None
    return layout.parse_checkpoint_id(found[0].decode("ascii", "replace").strip())


def read_commit(store: ObjectStore, checkpoint: CheckpointId) -> CommitRecord:
    """The commit record of `checkpoint`.

    Raises:
        MissingError: it is not committed.
        CorruptError: the record is damaged, or stored under another checkpoint's name.
    """
    record = CommitRecord.from_bytes(store.read(layout.commit_key(checkpoint)))
    if record.id != checkpoint:
        raise CorruptError(f"the commit record of {checkpoint} belongs to {record.id}.")
    return record


def read_manifest(store: ObjectStore, commit: CommitRecord) -> Manifest:
    """The manifest the commit points to. Raises `CorruptError` unless it has exactly the committed bytes."""
    key = layout.manifest_key(commit.id)
    try:
        data = store.read(key)
    except MissingError as error:
        raise CorruptError(f"{key} is missing.") from error
    if sha256_hex(data) != commit.manifest_sha256:
        raise CorruptError(f"{key} does not match the digest in its commit record.")
    return Manifest.from_bytes(data)


def read_object(store: ObjectStore, checkpoint: CheckpointId, stored: StoredObject) -> bytes:
    """One object of a checkpoint, verified chunk by chunk. Raises `CorruptError` naming object and offset."""
    key = layout.checkpoint_prefix(checkpoint) + stored.name
    try:
        data = store.read(key)
    except MissingError as error:
        raise CorruptError(f"{key} is missing.") from error
    if len(data) != stored.size:
        raise CorruptError(f"{key} has {len(data)} bytes, the manifest says {stored.size}.")
    _check_chunks(key, data, stored, 0)
    return data


def read_range(store: ObjectStore, checkpoint: CheckpointId, stored: StoredObject, start: int, end: int) -> memoryview:
    """Bytes `start` to `end` of an object; the chunks they lie in are fetched and verified.

    Raises:
        CorruptError: a chunk is damaged, or the object is shorter than its manifest says, or missing.
    """
    if start == end:
        return memoryview(b"")
    key = layout.checkpoint_prefix(checkpoint) + stored.name
    first, last = start // stored.chunk_bytes, -(-end // stored.chunk_bytes)
    begin, stop = first * stored.chunk_bytes, min(last * stored.chunk_bytes, stored.size)
    try:
        data = store.read_range(key, begin, stop - begin)
    except MissingError as error:
        raise CorruptError(f"{key} is missing.") from error
    if len(data) != stop - begin:
        raise CorruptError(f"{key} has fewer bytes than the {stored.size} the manifest says.")
    _check_chunks(key, data, stored, first)
    return memoryview(data)[start - begin : end - begin]


def read_piece(store: ObjectStore, checkpoint: CheckpointId, piece: Piece) -> memoryview:
    """The bytes of one tensor or piece (see `Manifest.locate`), verified. Raises `CorruptError`."""
    return read_range(store, checkpoint, piece.stored, piece.entry.start, piece.entry.end)


def verify(store: ObjectStore, checkpoint: CheckpointId) -> CommitRecord:
    """Read every byte of a committed checkpoint and check it. Raises `CorruptError` at the first damage."""
    commit = read_commit(store, checkpoint)
    for stored in read_manifest(store, commit).objects:
        read_object(store, checkpoint, stored)
    return commit


def newest_verified(store: ObjectStore, on_reject: Callable[[Rejection], None]) -> CommitRecord | None:
    """The newest committed checkpoint that verifies; see `newest`."""
    return newest(store, verify, on_reject)


def newest(
    store: ObjectStore,
    load: Callable[[ObjectStore, CheckpointId], _Loaded],
    on_reject: Callable[[Rejection], None],
    wanted: Callable[[CheckpointId], bool] = lambda _: True,
) -> _Loaded | None:
    """Load the newest committed checkpoint that is intact; None only if nothing was ever committed.

    If LATEST points to a checkpoint newer than all commit records, its record was lost: that counts as damage.

    Args:
        store: the store of the run.
        load: reads and verifies one checkpoint; raises `CorruptError` if it is damaged.
        on_reject: called for each newer checkpoint that had to be passed over.
        wanted: which checkpoints to look at. Default: all.

    Raises:
        CorruptError: checkpoints were committed but none verifies; starting from zero would hide the loss.
    """
    latest = latest_target(store)  # before the listing, which then shows it, unless its record was lost
    checkpoints = [checkpoint for checkpoint in list_checkpoints(store) if wanted(checkpoint)]
    rejected = 0
    if latest is not None and wanted(latest) and latest > max(checkpoints, default=CheckpointId(-1, 0)):
        rejected += 1
        on_reject(Rejection(latest, "LATEST points to it, but its commit record is missing."))
    for checkpoint in reversed(checkpoints):
        try:
            return load(store, checkpoint)
        except (CorruptError, MissingError) as error:  # missing: its commit record vanished since it was listed
            rejected += 1
            on_reject(Rejection(checkpoint, error.problem))
    if rejected:
        raise all_damaged(store, rejected)
    return None


def all_damaged(store: ObjectStore, count: int) -> CorruptError:
    """What to raise when checkpoints were committed but none is intact."""
    return CorruptError(
        f"all {count} committed checkpoints in {store.root} are damaged.",
        hint="Restore one from a backup, or choose a new run name to train from the beginning.",
    )


def iterate_verified(store: ObjectStore) -> Iterator[tuple[CheckpointId, CommitRecord | ClipError]]:
    """Verify all committed checkpoints, newest first; yields the record or what is wrong with it."""
    for checkpoint in reversed(list_checkpoints(store)):
        try:
            yield checkpoint, verify(store, checkpoint)
        except (CorruptError, MissingError) as error:
            yield checkpoint, error


def _check_chunks(key: str, data: bytes, stored: StoredObject, first: int) -> None:
    for index, digest in enumerate(chunk_digests(data, stored.chunk_bytes), start=first):
        if digest != stored.xxh3[index]:
            raise CorruptError(f"{key} is damaged in the chunk at byte {index * stored.chunk_bytes}.")
