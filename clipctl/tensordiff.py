"""How far two tensors are apart, computed exactly in double precision, without torch and numpy."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul, sub

from clipctl.safetensorsfile import Tensor

_CODES = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U64": "Q", "U32": "I", "U16": "H"}
_CODES |= {"U8": "B", "BOOL": "B"}
_ITEMS = 1 << 16
_HALVES = {"F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Distance:
    """How far two tensors are apart.

    Attributes:
        max_abs: largest absolute difference of two elements; NaN if an element of one is.
        relative: Euclidean norm of the difference, divided by that of the first tensor.
    """

    max_abs: float
    relative: float


def distance(first: Tensor, second: Tensor) -> Distance | None:
    """Compare two tensors of one dtype and shape; None for a dtype that Python has no numbers for."""
    if first.dtype not in _CODES and first.dtype not in _HALVES:
        return None
    largest, apart, size = 0.0, 0.0, 0.0
    for a, b in zip(_numbers(first), _numbers(second), strict=True):
        difference = array("d", map(sub, map(float, a), map(float, b)))
        apart += sum(map(mul, difference, difference))
        size += sum(map(mul, map(float, a), map(float, a)))
        largest = max(largest, max(map(abs, difference), default=0.0))
    if math.isnan(apart):
        return Distance(math.nan, math.nan)
    return Distance(largest, math.sqrt(apart / size) if size else (math.inf if apart else 0.0))


def _numbers(tensor: Tensor) -> Iterator[Sequence[float]]:
    """The elements, so many at a time. Files are little-endian, and so are all machines this runs on."""
    width = _HALVES.get(tensor.dtype) or array(_CODES[tensor.dtype]).itemsize
    for at in range(0, len(tensor.data), _ITEMS * width):
        piece = tensor.data[at : at + _ITEMS * width]
        if tensor.dtype == "F16":
            yield struct.unpack(f"<{len(piece) // 2}e", piece)
        elif tensor.dtype == "BF16":
            yield _upper_halves(piece)
        else:
            yield array(_CODES[tensor.dtype], bytes(piece))


def _upper_halves(piece: memoryview) -> array[float]:
    """bfloat16 is the upper half of a float32."""
    wide = bytearray(2 * len(piece))
    wide[2::4], wide[3::4] = piece[0::2], piece[1::2]
    return array("f", bytes(wide))
