"""Comparing two checkpoints tensor by tensor.

Tensors that lie at the same place in objects with the same digests are the same without being read. All others are read
and verified; where the bytes differ, the distance is computed, up to a limit of elements because it is Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from clipctl.checkpointtensors import PartReader
from clipctl.contract.commits import read_commit, read_manifest
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, Piece
from clipctl.contract.safetensors_header import described
from clipctl.contract.store import ObjectStore
from clipctl.tensordiff import distance

SAME, CHANGED, RESHAPED, ONLY_FIRST, ONLY_SECOND = "same", "changed", "reshaped", "only in first", "only in second"
MAX_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class TensorDiff:
    """What became of one tensor.

    Attributes:
        part: of the checkpoint.
        name: of the tensor.
        verdict: one of the constants above; `reshaped` means another shape or dtype.
        first, second: dtype and shape, where it exists.
        max_abs, relative: see `tensordiff.Distance`; None where nothing was computed.
    """

    part: str
    name: str
    verdict: str
    first: str | None = None
    second: str | None = None
    max_abs: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Side:
    """A checkpoint to compare."""

    store: ObjectStore
    checkpoint: CheckpointId
    manifest: Manifest

    @classmethod
    def open(cls, store: ObjectStore, checkpoint: CheckpointId) -> Side:
        """Read the manifest. Raises `MissingError` or `CorruptError`."""
        manifest = read_manifest(store, read_commit(store, checkpoint))
        return cls(store, checkpoint, described(store, checkpoint, manifest))


def compare(first: Side, second: Side, max_elements: int = MAX_ELEMENTS) -> Iterator[TensorDiff]:
    """All tensors of both, part by part in the order of their names.

    Args:
        first: one checkpoint.
        second: the other one.
        max_elements: of tensors that have more, only the bytes are compared.

    Raises:
        CorruptError: something of what was read does not verify.
    """
    parts = {stored.part for side in (first, second) for stored in side.manifest.objects}
    readers = [PartReader(side.store, side.checkpoint) for side in (first, second)]
    for part in sorted(parts):
        ours, theirs = first.manifest.locate(part), second.manifest.locate(part)
        for name in sorted(ours.keys() | theirs.keys()):
            yield _compare(part, name, ours.get(name), theirs.get(name), readers, max_elements)


def _compare(
    part: str,
    name: str,
    ours: Sequence[Piece] | None,
    theirs: Sequence[Piece] | None,
    readers: Sequence[PartReader],
    max_elements: int,
) -> TensorDiff:
    if ours is None or theirs is None:
        verdict = ONLY_FIRST if theirs is None else ONLY_SECOND
        return TensorDiff(part, name, verdict, _kind(ours), _kind(theirs))
    kinds = _kind(ours), _kind(theirs)
    if kinds[0] != kinds[1]:
        return TensorDiff(part, name, RESHAPED, *kinds)
    if _known_same(ours, theirs):
        return TensorDiff(part, name, SAME, *kinds)
    a, b = readers[0].tensor(ours), readers[1].tensor(theirs)
    if a.data == b.data:
        return TensorDiff(part, name, SAME, *kinds)
    apart = distance(a, b) if prod(a.shape) <= max_elements else None
    if apart is None:
        return TensorDiff(part, name, CHANGED, *kinds)
    return TensorDiff(part, name, CHANGED, *kinds, apart.max_abs, apart.relative)


def _known_same(ours: Sequence[Piece], theirs: Sequence[Piece]) -> bool:
    """Whether the digests of the chunks that hold the tensor say that it is the same."""
    return [_fingerprint(piece) for piece in ours] == [_fingerprint(piece) for piece in theirs]


def _fingerprint(piece: Piece) -> tuple[object, ...]:
    stored, entry = piece.stored, piece.entry
    chunks = stored.xxh3[entry.start // stored.chunk_bytes : -(-entry.end // stored.chunk_bytes)]
    return entry, stored.chunk_bytes, stored.size, chunks


def _kind(pieces: Sequence[Piece] | None) -> str | None:
    if pieces is None:
        return None
    entry = pieces[0].entry
    return f"{entry.dtype} {list(entry.whole_shape)}"
