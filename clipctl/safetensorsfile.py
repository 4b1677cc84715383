"""The safetensors format, as far as copying whole tensors from several files into one needs it.

A file is an unsigned 64-bit little-endian header length, a JSON header that maps names to dtype, shape and byte range,
then the bytes (https://github.com/huggingface/safetensors#format). No tensor is ever interpreted, so no numpy.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clipctl.contract.errors import CorruptError

_MAX_HEADER = 100 << 20
_ALIGNMENT = 8
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}


@dataclass(frozen=True)
class Tensor:
    """One tensor as stored: dtype name, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """All tensors of one file; `name` stands in errors. Raises `CorruptError` for anything malformed."""
    header, start = _header(data, name)
    body = memoryview(data)[start:]
    tensors = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        try:
            first, last = entry["data_offsets"]
            tensor = Tensor(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), body[first:last])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{name}: the entry of tensor {key} is malformed.") from error
        if not 0 <= first <= last <= len(body):
            raise CorruptError(f"{name}: tensor {key} lies outside of the file.")
        tensors[key] = tensor
    return tensors


def merge(files: Iterable[tuple[str, bytes]]) -> dict[str, Tensor]:
    """The tensors of all files together. Raises `CorruptError` if two files hold the same one."""
    merged: dict[str, Tensor] = {}
    for name, data in files:
        tensors = read_tensors(data, name)
        twice = sorted(merged.keys() & tensors.keys())
        if twice:
            raise CorruptError(f"{name}: tensor {twice[0]} stands in another file of the checkpoint as well.")
        merged.update(tensors)
    return merged


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


def _header(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise CorruptError(f"{name} is too short for a safetensors file.")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(_MAX_HEADER, len(data) - 8):
        raise CorruptError(f"{name}: the header is longer than the file.")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise CorruptError(f"{name}: the header is not JSON.") from error
    if not isinstance(header, dict):
        raise CorruptError(f"{name}: the header is not a JSON object.")
    return header, 8 + length
