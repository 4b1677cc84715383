"""The safetensors format, as far as writing whole tensors into one file needs it.

A file is an unsigned 64-bit little-endian header length, a JSON header that maps names to dtype, shape and byte range,
then the bytes (https://github.com/huggingface/safetensors#format). No tensor is ever interpreted, so no numpy.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ALIGNMENT = 8
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}


@dataclass(frozen=True)
class Tensor:
    """One tensor as stored: dtype name, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def write_chunks(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of one file with all tensors, piece by piece, in the order the reference library writes them: widest
    dtype first so that everything is aligned, then by name.
    """
    order = sorted(tensors, key=lambda key: (-_BITS.get(tensors[key].dtype, 8), key))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for key in order:
        tensor = tensors[key]
        end = offset + len(tensor.data)
        header[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for key in order:
        yield tensors[key].data
