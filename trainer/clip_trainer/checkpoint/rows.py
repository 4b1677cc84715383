"""Reading from a checkpoint only what one rank keeps of sharded tensors, whatever number of ranks has stored it.

Objects are read by ascending ranges, so no chunk is fetched twice, and little more than the rows of a tensor is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from clip_trainer.checkpoint.objects import dtype_of
from clip_trainer.checkpoint.reading import Opened, as_tensor
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.parallel.pieces import assign, is_sharded, local, rows_of
from clipctl.contract.commits import StoredObject, TensorEntry, read_range

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of whole tensors by name."""


def shapes_of(opened: Opened, part: str) -> Shapes:
    """What the tensors of a part look like as a whole. Version 1 of the format does not say: its tensors are read.

    Raises:
        CorruptError: the pieces of a tensor do not cover it exactly once; or, in version 1, an object is damaged.
    """
    if opened.manifest.version == 1:
        return {name: (tuple(t.shape), t.dtype) for name, t in opened.read([part]).get(part, {}).items()}
    entries = {name: pieces[0].entry for name, pieces in opened.manifest.locate(part).items()}
    return {name: (entry.whole_shape, dtype_of(entry.dtype)) for name, entry in entries.items()}


@torch.no_grad()
def fill(opened: Opened, part: str, target: Mapping[str, torch.Tensor], rank: int, world: int) -> None:
    """Give every tensor of `target` its values, in place; of sharded ones only this rank's rows are read.

    Args:
        opened: the checkpoint.
        part: of it.
        target: whole and sharded tensors, with the names and shapes that `shapes_of` tells.
        rank: this rank.
        world: the ranks they are sharded over.

    Raises:
        CorruptError: a chunk that was needed is damaged.
    """
    if opened.manifest.version == 1:
        whole: Tensors = opened.read([part]).get(part, {})
        for name, tensor in target.items():
            assign(tensor, whole[name])
        return
    for stored in opened.manifest.objects_of(part):
        reader = _ObjectReader(opened, stored)
        for name, entry in sorted(stored.tensors.items(), key=lambda item: item[1].start):
            if name in target:
                _take(reader, entry, target[name], rank, world)


def _take(reader: _ObjectReader, entry: TensorEntry, target: torch.Tensor, rank: int, world: int) -> None:
    """Read those rows of a stored piece that the target has, and put them where they belong."""
    shape = entry.shape or (1,)  # a single number is a row
    offsets = entry.offsets or (0,) * len(shape)
    first, last = _common(own_rows(target, rank, world), offsets[0], shape[0])
    if first >= last:
        return
    row = (entry.end - entry.start) // shape[0]
    begin = entry.start + (first - offsets[0]) * row
    data = reader.read(begin, begin + (last - first) * row)
    piece = as_tensor(data, entry.dtype, (last - first, *shape[1:]))
    place_rows(target, piece, (first, *offsets[1:]), rank, world)


def own_rows(target: torch.Tensor, rank: int, world: int) -> tuple[int, int]:
    """The rows of a tensor that a rank has: all of a whole one. A single number is a row."""
    rows = len(target) if target.ndim else 1
    return rows_of(rows, rank, world) if is_sharded(target) else (0, rows)


@torch.no_grad()
def place_rows(target: torch.Tensor, piece: torch.Tensor, offsets: Sequence[int], rank: int, world: int) -> None:
    """Copy what a rank has of a piece of a tensor to where it belongs; nothing if it has none of those rows.

    Args:
        target: the tensor, whole or sharded over the ranks.
        piece: a part of it.
        offsets: where the part begins in the whole tensor, by dimension.
        rank: this rank.
        world: how many there are.
    """
    piece = piece.view(piece.shape or (1,))
    begin = offsets[0] if offsets else 0
    rows = own_rows(target, rank, world)
    first, last = _common(rows, begin, len(piece))
    if first >= last:
        return
    own = local(target)
    inner = tuple(slice(at, at + size) for at, size in zip(offsets[1:], piece.shape[1:], strict=True))
    where = (slice(first - rows[0], last - rows[0]), *inner)
    own.view(own.shape or (1,))[where].copy_(piece[first - begin : last - begin])


def _common(rows: tuple[int, int], begin: int, count: int) -> tuple[int, int]:
    """The rows that are both among `rows` and among `count` ones from `begin` on; empty if the first is not smaller."""
    return max(rows[0], begin), min(rows[1], begin + count)


class _ObjectReader:
    """Verified ranges of one object, asked for in ascending order."""

    def __init__(self, opened: Opened, stored: StoredObject) -> None:
        self._opened = opened
        self._stored = stored
        self._at = 0
        self._held = b""

    def read(self, start: int, end: int) -> memoryview:
        """Bytes [start, end); what is still held of the chunk they begin in is not fetched again."""
        first = start // self._stored.chunk_bytes * self._stored.chunk_bytes
        self._held = self._held[first - self._at :]  # nothing, if the last range ended before that chunk
        self._at = first
        held_to = first + len(self._held)
        if end > held_to:
            stop = min(-(-end // self._stored.chunk_bytes) * self._stored.chunk_bytes, self._stored.size)
            self._held += bytes(read_range(self._opened.store, self._opened.id, self._stored, held_to, stop))
        return memoryview(bytearray(self._held[start - first : end - first]))
