"""Where the bytes of one tensor, or of one piece of a sharded tensor, lie inside an object of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element by the name safetensors has for a dtype."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in an object.

    Attributes:
        dtype: safetensors' name, as `F32`.
        shape: of what is stored here.
        start: first byte, counted from the start of the object.
        end: the byte behind its last one.
        global_shape: of the whole tensor, if this is a piece of a sharded one.
        offsets: where the piece begins in the whole tensor, by dimension.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    global_shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """Shape of the tensor this is, or is a piece of."""
        return self.shape if self.global_shape is None else self.global_shape

    def to_json(self) -> dict[str, Any]:
        """The form it has in a manifest."""
        raw = {"dtype": self.dtype, "shape": list(self.shape), "start": self.start, "end": self.end}
        if self.global_shape is not None:
            raw |= {"global_shape": list(self.global_shape), "offsets": list(self.offsets or ())}
        return raw

    @classmethod
    def from_json(cls, raw: dict[str, Any], object_bytes: int) -> TensorEntry:
        """From the form it has in a manifest.

        Args:
            raw: that form.
            object_bytes: size of the object.

        Raises:
            KeyError, TypeError, ValueError: it is not well-formed, or does not fit the object or itself.
        """
        sharded = "global_shape" in raw
        entry = cls(
            str(raw["dtype"]),
            _sizes(raw["shape"]),
            *_range(raw["start"], raw["end"]),
            _sizes(raw["global_shape"]) if sharded else None,
            _sizes(raw["offsets"]) if sharded else None,
        )
        if not entry.start <= entry.end <= object_bytes:
            raise ValueError("a tensor lies outside of its object")
        if entry.end - entry.start != math.prod(entry.shape) * ITEM_BYTES[entry.dtype]:
            raise ValueError("a tensor has more or fewer bytes than its shape says")
        if entry.global_shape is not None and not _inside(entry.shape, entry.offsets or (), entry.global_shape):
            raise ValueError("a piece lies outside of its tensor")
        return entry


def overlap(first: TensorEntry, second: TensorEntry) -> bool:
    """Whether two pieces of one tensor share an element."""
    sides = zip(first.offsets or (), first.shape, second.offsets or (), second.shape, strict=True)
    return all(a < b + b_size and b < a + a_size for a, a_size, b, b_size in sides)


def _inside(shape: tuple[int, ...], offsets: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) == len(offsets) == len(whole) and all(
        offset + size <= limit for offset, size, limit in zip(offsets, shape, whole, strict=True)
    )


def _range(start: Any, end: Any) -> tuple[int, int]:
    first, last = _sizes([start, end])
    return first, last


def _sizes(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list | tuple) or any(type(size) is not int or size < 0 for size in raw):
        raise ValueError(f"{raw!r:.60} is not a list of sizes")
    return tuple(raw)
