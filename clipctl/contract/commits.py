"""The checkpoint format that readers trust: manifests of digested objects, and commit records that name them.

A checkpoint is a set of immutable objects, then a manifest with their digests, then one *commit record* created with
create-if-absent. Until the record exists the checkpoint does not; a record that exists but whose bytes do not verify
is rejected visibly and the one before it is used. Nothing here is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from clipctl.contract import layout
from clipctl.contract.digest import CHUNK_BYTES, canonical_json, chunk_digests, self_digest, sha256_hex
from clipctl.contract.errors import ClipError, CorruptError, MissingError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore

FORMAT_VERSION = 1
_Record = TypeVar("_Record")
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class StoredObject:
    """One immutable object of a checkpoint: its key below the checkpoint prefix, its size and chunk digests."""

    name: str
    size: int
    xxh3: tuple[str, ...]
    chunk_bytes: int = CHUNK_BYTES

    @classmethod
    def of(cls, name: str, data: bytes | memoryview) -> StoredObject:
        """Describe `data` as it will be stored under `name`."""
        return cls(name, len(data), tuple(chunk_digests(data)))

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> StoredObject:
        """From the form it has in a manifest. Raises KeyError, TypeError or ValueError if that is not well-formed."""
        stored = cls(str(raw["name"]), int(raw["size"]), tuple(raw["xxh3"]), int(raw["chunk_bytes"]))
        if stored.chunk_bytes < 1 or len(stored.xxh3) != -(-stored.size // stored.chunk_bytes):
            raise ValueError(f"{stored.name} has {len(stored.xxh3)} chunk digests for {stored.size} bytes")
        if ".." in stored.name.split("/"):
            raise ValueError(f"the object name {stored.name!r} leaves the checkpoint")
        return stored


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of: its objects and the small state that is not a tensor (JSON)."""

    objects: tuple[StoredObject, ...]
    state: dict[str, Any]
    version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """The manifest as stored; its sha256 goes into the commit record."""
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse a manifest whose digest has been checked. Raises `CorruptError`."""
        raw = _parse(data, "the manifest")
        try:
            objects = tuple(StoredObject.from_json(item) for item in raw["objects"])
            return cls(objects, raw["state"], raw["version"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"the manifest is not well-formed: {error}.") from error


@dataclass(frozen=True)
class CommitRecord:
    """The object whose existence makes a checkpoint real."""

    run: str
    step: int
    incarnation: int
    attempt: int
    samples_consumed: int
    world_size: int
    manifest_sha256: str
    bytes_total: int
    spec_digest: str
    training_digest: str
    parent: str | None
    created_at: float
    writer: str
    metrics: dict[str, float] = field(default_factory=dict)
    version: int = FORMAT_VERSION

    @property
    def id(self) -> CheckpointId:
        """Step and incarnation."""
        return CheckpointId(self.step, self.incarnation)

    def to_bytes(self) -> bytes:
        """The record as stored, with a digest over itself."""
        raw = asdict(self)
        return canonical_json({**raw, "digest": self_digest(raw)})

    @classmethod
    def from_bytes(cls, data: bytes) -> CommitRecord:
        """Parse and check a stored record, which must be byte for byte what `to_bytes` wrote. Raises `CorruptError`."""
        raw = _parse(data, "the commit record")
        raw.pop("digest", None)
        record = _construct(cls, raw)
        try:
            intact = record.to_bytes() == data
        except ValueError:  # damage can turn a number into one that JSON does not have
            intact = False
        if not intact:
            raise CorruptError("the commit record does not match its own digest.")
        return record


@dataclass(frozen=True)
class Rejection:
    """A committed checkpoint that did not verify, and why."""

    checkpoint: CheckpointId
    problem: str


def list_checkpoints(store: ObjectStore) -> list[CheckpointId]:
    """All committed checkpoints, oldest first. LATEST is only a hint for people; commits are the truth."""
    ids = (layout.parse_commit_key(info.key) for info in store.list(layout.COMMITS))
    return sorted(checkpoint for checkpoint in ids if checkpoint is not None)


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
    key = f"{layout.checkpoint_prefix(commit.id)}manifest.json"
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
    for index, digest in enumerate(chunk_digests(data, stored.chunk_bytes)):
        if digest != stored.xxh3[index]:
            raise CorruptError(f"{key} is damaged in the chunk at byte {index * stored.chunk_bytes}.")
    return data


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

    Args:
        store: the store of the run.
        load: reads and verifies one checkpoint; raises `CorruptError` if it is damaged.
        on_reject: called for each newer checkpoint that had to be passed over.
        wanted: which checkpoints to look at. Default: all.

    Raises:
        CorruptError: checkpoints were committed but none verifies; starting from zero would hide the loss.
    """
    rejected = 0
    for checkpoint in reversed(list_checkpoints(store)):
        if not wanted(checkpoint):
            continue
        try:
            return load(store, checkpoint)
        except (CorruptError, MissingError) as error:  # missing: its commit record vanished since it was listed
            rejected += 1
            on_reject(Rejection(checkpoint, error.problem))
    if rejected:
        raise CorruptError(
            f"all {rejected} committed checkpoints in {store.root} are damaged.",
            hint="Restore one from a backup, or choose a new run name to train from the beginning.",
        )
    return None


def iterate_verified(store: ObjectStore) -> Iterator[tuple[CheckpointId, CommitRecord | ClipError]]:
    """Verify all committed checkpoints, newest first; yields the record or what is wrong with it."""
    for checkpoint in reversed(list_checkpoints(store)):
        try:
            yield checkpoint, verify(store, checkpoint)
        except (CorruptError, MissingError) as error:
            yield checkpoint, error


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} is not JSON.") from error
    if not isinstance(raw, dict):
        raise CorruptError(f"{what} is not a JSON object.")
    version = raw.get("version")
    if version != FORMAT_VERSION:
        raise CorruptError(
            f"{what} has format version {version!r}; this clipctl reads version {FORMAT_VERSION}.",
            hint="Use the clipctl release that wrote it, or a newer one.",
        )
    return raw


def _construct(cls: type[_Record], raw: dict[str, Any]) -> _Record:
    try:
        return cls(**raw)
    except TypeError as error:
        raise CorruptError(f"the {cls.__name__} has unexpected fields: {error}.") from error
