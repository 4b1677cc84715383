"""What one rank stores of a checkpoint: safetensors files, laid out before there are bytes in them.

The layout follows from names, shapes and dtypes alone, so every rank knows its share without talking to anybody, and
the tensors can be copied straight to where they stand in the file. Whole tensors, which every rank has, are divided
among the ranks; of sharded ones each rank stores the rows it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from clip_trainer.checkpoint.tensors import Tensors, partition
from clip_trainer.parallel.pieces import is_sharded, rows_of
from clipctl.contract.errors import CorruptError

ALIGNMENT = 4096  # of objects in the staging buffer: whole pages
_HEADER_ALIGNMENT = 8
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of dtypes in safetensors files."""
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}


def dtype_of(name: str) -> torch.dtype:
    """The dtype that safetensors calls `name`. Raises `CorruptError` if we never store such."""
    if name not in _BY_NAME:
        raise CorruptError(f"the checkpoint has tensors of type {name}, which is not known.")
    return _BY_NAME[name]


@dataclass(frozen=True)
class Extent:
    """A tensor, or the piece of one, that a rank stores; without its values.

    Attributes:
        dtype: of its elements.
        shape: of what is stored.
        global_shape: of the whole tensor, if this is a piece of a sharded one.
        offsets: where the piece begins in the whole tensor, by dimension.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    global_shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None

    @classmethod
    def whole(cls, tensor: torch.Tensor) -> Extent:
        """All of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @classmethod
    def rows(cls, tensor: torch.Tensor, start: int, stop: int) -> Extent:
        """Rows [start, stop) of a sharded tensor."""
        inner = tuple(tensor.shape[1:])
        return cls(tensor.dtype, (stop - start, *inner), tuple(tensor.shape), (start, *(0 for _ in inner)))

    @property
    def nbytes(self) -> int:
        """Size of what is stored."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        """As safetensors calls it."""
        return _DTYPES[self.dtype]


Extents = dict[str, Extent]


@dataclass(frozen=True)
class PlacedTensor:
    """Where a tensor, or a piece of one, stands in its object: bytes [start, stop) from the object's beginning."""

    name: str
    extent: Extent
    start: int
    stop: int


@dataclass(frozen=True)
class PlannedObject:
    """One file to be stored.

    Attributes:
        name: below the checkpoint's prefix.
        part: of the checkpoint its tensors belong to.
        at: where it begins in the staging buffer.
        header: its first bytes.
        size: bytes in all.
        tensors: what follows the header, without gaps.
    """

    name: str
    part: str
    at: int
    header: bytes
    size: int
    tensors: tuple[PlacedTensor, ...]

    @property
    def stop(self) -> int:
        """Where it ends in the staging buffer."""
        return self.at + self.size


def plan_shares(parts: Mapping[str, Tensors], world: int) -> list[list[PlannedObject]]:
    """The files of each rank, none for a part of which it holds nothing; the shares are balanced by bytes.

    Args:
        parts: the whole state, the same names, shapes and dtypes on every rank; sharded tensors over `world` ranks.
        world: number of ranks.
    """
    every = {(part, name): tensor for part, of in parts.items() for name, tensor in of.items()}
    sharded = {key: tensor for key, tensor in every.items() if is_sharded(tensor)}
    shares = partition({key: tensor for key, tensor in every.items() if key not in sharded}, world)
    return [
        _plan({key: Extent.whole(every[key]) for key in share} | _rows(sharded, rank, world), rank, world)
        for rank, share in enumerate(shares)
    ]


def _rows(sharded: Mapping[tuple[str, str], torch.Tensor], rank: int, world: int) -> dict[tuple[str, str], Extent]:
    extents = {key: Extent.rows(t, *rows_of(t.shape[0], rank, world)) for key, t in sharded.items()}
    return {key: extent for key, extent in extents.items() if extent.nbytes}


def _plan(share: Mapping[tuple[str, str], Extent], rank: int, world: int) -> list[PlannedObject]:
    held: dict[str, Extents] = {}
    for part, name in sorted(share):
        held.setdefault(part, {})[name] = share[part, name]
    objects: list[PlannedObject] = []
    at = 0
    for part, extents in held.items():
        objects.append(_plan_object(f"{part}-{rank:05d}-of-{world:05d}.safetensors", part, at, extents))
        at = -(-objects[-1].stop // ALIGNMENT) * ALIGNMENT
    return objects


def total_bytes(objects: list[PlannedObject]) -> int:
    """Size of the staging buffer that holds all `objects`."""
    return max((planned.stop for planned in objects), default=0)


def _plan_object(name: str, part: str, at: int, share: Extents) -> PlannedObject:
    # Big items first keeps every tensor aligned to its own item size, whatever comes before it.
    order = sorted(share, key=lambda key: (-share[key].dtype.itemsize, key))
    header = _header(list(_offsets(order, share)), share)
    placed = tuple(
        PlacedTensor(key, share[key], len(header) + start, len(header) + stop)
        for key, start, stop in _offsets(order, share)
    )
    size = placed[-1].stop if placed else len(header)
    return PlannedObject(name, part, at, header, size, placed)


def _offsets(order: list[str], share: Extents) -> Iterator[tuple[str, int, int]]:
    at = 0
    for key in order:
        yield key, at, at + share[key].nbytes
        at += share[key].nbytes


def _header(offsets: list[tuple[str, int, int]], share: Extents) -> bytes:
    """Length as u64, then JSON padded with spaces: the first bytes of a safetensors file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for key, start, stop in offsets:
        extent = share[key]
        entries[key] = {
            "dtype": extent.dtype_name,
            "shape": list(extent.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
