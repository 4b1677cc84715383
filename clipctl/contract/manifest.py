"""The manifest of a checkpoint: its objects with their digests, and where each tensor lies in them.

Format version 1 lists objects only; since version 2 each object also lists its tensors, so that a reader can fetch just
the ranges it needs. Both versions are read; version 2 is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from clipctl.contract.digest import CHUNK_BYTES, canonical_json, chunk_digests
from clipctl.contract.errors import CorruptError
from clipctl.contract.jsonrecord import parse_record
from clipctl.contract.tensor_entry import TensorEntry, overlap

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


@dataclass(frozen=True)
class StoredObject:
    """One immutable object of a checkpoint.

    Attributes:
        name: key below the checkpoint prefix, `<part>-<rank>-of-<world>.safetensors`.
        size: bytes.
        xxh3: digest of each chunk, in order.
        chunk_bytes: size of a chunk; the last one may be shorter.
        tensors: what lies where; empty in version 1.
    """

    name: str
    size: int
    xxh3: tuple[str, ...]
    chunk_bytes: int = CHUNK_BYTES
    tensors: Mapping[str, TensorEntry] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, name: str, data: bytes | memoryview, tensors: Mapping[str, TensorEntry] | None = None) -> StoredObject:
        """Describe `data` as it will be stored under `name`."""
        return cls(name, len(data), tuple(chunk_digests(data)), tensors=dict(tensors or {}))

    @property
    def part(self) -> str:
        """The part of the state it belongs to, as `weights`."""
        return self.name.partition("-")[0]

    def to_json(self, version: int = FORMAT_VERSION) -> dict[str, Any]:
        """The form it has in a manifest of that version."""
        raw = {"name": self.name, "size": self.size, "xxh3": list(self.xxh3), "chunk_bytes": self.chunk_bytes}
        if version >= 2:
            raw["tensors"] = {name: entry.to_json() for name, entry in self.tensors.items()}
        return raw

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> StoredObject:
        """From the form it has in a manifest. Raises KeyError, TypeError or ValueError if that is not well-formed."""
        size = int(raw["size"])
        tensors = {name: TensorEntry.from_json(entry, size) for name, entry in dict(raw.get("tensors", {})).items()}
        stored = cls(str(raw["name"]), size, tuple(raw["xxh3"]), int(raw["chunk_bytes"]), tensors)
        if stored.chunk_bytes < 1 or len(stored.xxh3) != -(-stored.size // stored.chunk_bytes):
            raise ValueError(f"{stored.name} has {len(stored.xxh3)} chunk digests for {stored.size} bytes")
        if _NAME.fullmatch(stored.name) is None:
            raise ValueError(f"{stored.name!r:.100} is no name of an object")
        return stored


@dataclass(frozen=True)
class Piece:
    """A tensor, or a piece of it, in the object that holds it."""

    stored: StoredObject
    entry: TensorEntry


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of: its objects and the small state that is not a tensor (JSON)."""

    objects: tuple[StoredObject, ...]
    state: dict[str, Any]
    version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """The manifest as stored; its sha256 goes into the commit record."""
        objects = [stored.to_json(self.version) for stored in self.objects]
        return canonical_json({"objects": objects, "state": self.state, "version": self.version})

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse a manifest whose digest has been checked. Raises `CorruptError`."""
        raw = parse_record(data, "the manifest", READABLE_VERSIONS)
        try:
            objects = tuple(StoredObject.from_json(item) for item in raw["objects"])
            if not isinstance(raw["state"], dict):
                raise TypeError("its state is not an object")
            return cls(objects, raw["state"], raw["version"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"the manifest is not well-formed: {error}.") from error

    def objects_of(self, part: str) -> tuple[StoredObject, ...]:
        """The objects that hold a part of the state."""
        return tuple(stored for stored in self.objects if stored.part == part)

    def locate(self, part: str) -> dict[str, tuple[Piece, ...]]:
        """Where each tensor of a part lies. A version-1 manifest does not know: see `reading.described`.

        Returns:
            By name of the tensor: one piece, or the pieces of a sharded tensor, which cover it exactly.

        Raises:
            CorruptError: a tensor stands twice, or its pieces do not cover it exactly once.
        """
        found: dict[str, list[Piece]] = {}
        for stored in self.objects_of(part):
            for name, entry in stored.tensors.items():
                found.setdefault(name, []).append(Piece(stored, entry))
        for name, pieces in found.items():
            _check_cover(name, [piece.entry for piece in pieces])
        return {name: tuple(pieces) for name, pieces in found.items()}


def _check_cover(name: str, pieces: Sequence[TensorEntry]) -> None:
    """Pieces inside of the tensor that do not overlap and have as many elements as it cover it."""
    first = pieces[0]
    if len(pieces) > 1 and any(piece.offsets is None for piece in pieces):
        raise CorruptError(f"tensor {name} stands in the checkpoint more than once.")
    if any((piece.dtype, piece.whole_shape) != (first.dtype, first.whole_shape) for piece in pieces):
        raise CorruptError(f"the pieces of tensor {name} do not agree on its shape and dtype.")
    elements = sum(math.prod(piece.shape) for piece in pieces)
    if elements != math.prod(first.whole_shape) or any(overlap(a, b) for a, b in combinations(pieces, 2)):
        raise CorruptError(f"the pieces of tensor {name} do not cover it exactly once.")
