"""Writing a checkpoint: every rank its share, then one commit record that makes it real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from clip_trainer.checkpoint.incarnation import check_fence
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.tensors import Tensors, partition
from clip_trainer.model.interchange import to_bytes
from clip_trainer.train.group import Group
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import ClipError, TryAgainError, error_from_code
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore


@dataclass(frozen=True)
class Identity:
    """What every commit record of this worker group says about its origin."""

    run: str
    attempt: int
    incarnation: int
    spec_digest: str
    training_digest: str
    writer: str


class Checkpointer:
    """Saves checkpoints of one incarnation. All ranks call `save` at the same step.

    Args:
        store: the run's store.
        group: the ranks.
        identity: goes into the commit records.
        retention: deletes old checkpoints after a commit.
        clock: seconds since the epoch.
        parent: the checkpoint this incarnation resumed from.
    """

    def __init__(
        self,
        store: ObjectStore,
        group: Group,
        identity: Identity,
        retention: Retention,
        clock: Callable[[], float],
        parent: CheckpointId | None,
    ) -> None:
        self._store = store
        self._group = group
        self._identity = identity
        self._retention = retention
        self._clock = clock
        self._parent = parent

    @property
    def last(self) -> CheckpointId | None:
        """The newest checkpoint of this trajectory: what was saved last, or what was resumed from."""
        return self._parent

    def continue_from(self, checkpoint: CheckpointId) -> None:
        """Say that training goes on from `checkpoint`: it is the parent of what is saved next."""
        self._parent = checkpoint

    def save(
        self,
        step: int,
        samples_consumed: int,
        parts: dict[str, Tensors],
        state: dict[str, Any],
        metrics: dict[str, float],
    ) -> CheckpointId:
        """Store `parts` and `state` as the checkpoint of `step` and commit it.

        Raises:
            TryAgainError: a newer incarnation owns the run; this one must stop.
            ClipError: some rank could not store its share; nothing was committed, earlier checkpoints are untouched.
        """
        checkpoint = CheckpointId(step, self._identity.incarnation)
        objects = self._write_share(checkpoint, parts)
        record = CommitRecord(
            run=self._identity.run,
            step=step,
            incarnation=self._identity.incarnation,
            attempt=self._identity.attempt,
            samples_consumed=samples_consumed,
            world_size=self._group.world,
            manifest_sha256="",
            bytes_total=sum(stored.size for stored in objects),
            spec_digest=self._identity.spec_digest,
            training_digest=self._identity.training_digest,
            parent=str(self._parent) if self._parent else None,
            created_at=self._clock(),
            writer=self._identity.writer,
            metrics=metrics,
        )
        self._group.on_first(lambda: self._commit(record, Manifest(tuple(objects), state)))
        self._parent = checkpoint
        return checkpoint

    def _write_share(self, checkpoint: CheckpointId, parts: dict[str, Tensors]) -> list[StoredObject]:
        """Write this rank's objects; returns those of all ranks, or raises the first failure on every rank."""
        try:
            answers = self._group.on_each(lambda: [asdict(stored) for stored in self._write_objects(checkpoint, parts)])
        except ClipError as error:
            problem = f"checkpoint {checkpoint} was not stored: {error.problem}"
            raise error_from_code(problem, error.hint, error.code) from error
        return [StoredObject(o["name"], o["size"], tuple(o["xxh3"]), o["chunk_bytes"]) for a in answers for o in a]

    def _write_objects(self, checkpoint: CheckpointId, parts: dict[str, Tensors]) -> list[StoredObject]:
        written = []
        for part, tensors in parts.items():
            share = partition(tensors, self._group.world)[self._group.rank]
            data = to_bytes({name: tensors[name] for name in share})
            stored = StoredObject.of(f"{part}-{self._group.rank:05d}-of-{self._group.world:05d}.safetensors", data)
            self._store.write(layout.checkpoint_prefix(checkpoint) + stored.name, data)
            written.append(stored)
        return written

    def _commit(self, record: CommitRecord, manifest: Manifest) -> None:
        data = manifest.to_bytes()
        self._store.write(f"{layout.checkpoint_prefix(record.id)}manifest.json", data)
        check_fence(self._store, record.incarnation)
        record = replace(record, manifest_sha256=sha256_hex(data))
        if not self._store.create(layout.commit_key(record.id), record.to_bytes()):
            raise TryAgainError(f"checkpoint {record.id} was committed by somebody else.")
        self._move_latest(record.id)
        self._retention.apply(self._store)

    def _move_latest(self, checkpoint: CheckpointId) -> None:
        """Point LATEST here. It is a hint for people and scripts; readers trust the commit records."""
        data = f"{checkpoint}\n".encode()
        current = self._store.read_version(layout.LATEST)
        if current is None:
            self._store.create(layout.LATEST, data)
        else:
            self._store.replace(layout.LATEST, data, current[1])
