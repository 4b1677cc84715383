"""Reading the tensors of a checkpoint: verified bytes become tensors, whatever wrote them.

Version 1 of the format lists objects only, so the header of each safetensors file is asked; version 2 lists tensors,
whole ones or pieces.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from clip_trainer.checkpoint.objects import dtype_of
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.model.interchange import from_bytes
from clipctl.contract.commits import (
    CommitRecord,
    Manifest,
    Piece,
    StoredObject,
    TensorEntry,
    read_commit,
    read_manifest,
    read_object,
)
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore


@dataclass(frozen=True)
class Opened:
    """A committed checkpoint whose records are intact; its tensors are not read yet."""

    store: ObjectStore
    commit: CommitRecord
    manifest: Manifest

    @property
    def id(self) -> CheckpointId:
        """Which one."""
        return self.commit.id

    def read(self, parts: Collection[str] | None = None) -> dict[str, Tensors]:
        """All tensors of `parts`, or of every part, on the CPU.

        Raises:
            CorruptError: an object is damaged or missing.
        """
        present = dict.fromkeys(stored.part for stored in self.manifest.objects)
        return {part: self._read_part(part) for part in present if parts is None or part in parts}

    def _read_part(self, part: str) -> Tensors:
        objects = self.manifest.objects_of(part)
        if self.manifest.version == 1:
            return {name: t for stored in objects for name, t in from_bytes(self._object(stored)).items()}
        data = {stored.name: memoryview(bytearray(self._object(stored))) for stored in objects}
        return {name: _assemble(pieces, data) for name, pieces in self.manifest.locate(part).items()}

    def _object(self, stored: StoredObject) -> bytes:
        return read_object(self.store, self.id, stored)


def open_checkpoint(store: ObjectStore, checkpoint: CheckpointId) -> Opened:
    """The records of a committed checkpoint.

    Raises:
        MissingError: it is not committed.
        CorruptError: a record is damaged.
    """
    commit = read_commit(store, checkpoint)
    return Opened(store, commit, read_manifest(store, commit))


def _assemble(pieces: tuple[Piece, ...], data: Mapping[str, memoryview]) -> torch.Tensor:
    tensors = [
        as_tensor(data[p.stored.name][p.entry.start : p.entry.end], p.entry.dtype, p.entry.shape) for p in pieces
    ]
    if pieces[0].entry.offsets is None:
        return tensors[0]
    whole = torch.empty(pieces[0].entry.whole_shape, dtype=tensors[0].dtype)
    for piece, tensor in zip(pieces, tensors, strict=True):
        whole[_where(piece.entry)] = tensor
    return whole


def _where(entry: TensorEntry) -> tuple[slice, ...]:
    return tuple(slice(at, at + size) for at, size in zip(entry.offsets or (), entry.shape, strict=True))


def as_tensor(data: memoryview, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Stored bytes as a tensor, without a copy of writable ones.

    Args:
        data: the bytes.
        dtype: of the elements, as safetensors calls it.
        shape: of the tensor.
    """
    if not data:
        return torch.empty(shape, dtype=dtype_of(dtype))
    return torch.frombuffer(data, dtype=dtype_of(dtype)).view(shape)
