"""Writes torch checkpoints (`torch.save`) without torch: a zip file of a description and the bytes of the tensors.

The description is a pickle of protocol 2 that names no classes but torch's tensor types, so that
`torch.load(weights_only=True)` accepts it. Format: torch/serialization.py, `_save`; records are aligned to 64 bytes as
torch writes them, for readers that map the file into memory.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from clipctl.safetensorsfile import Tensor

_STORAGES = {
    "BF16": ("BFloat16Storage", 2),
    "BOOL": ("BoolStorage", 1),
    "F16": ("HalfStorage", 2),
    "F32": ("FloatStorage", 4),
    "F64": ("DoubleStorage", 8),
    "I16": ("ShortStorage", 2),
    "I32": ("IntStorage", 4),
    "I64": ("LongStorage", 8),
    "I8": ("CharStorage", 1),
    "U8": ("ByteStorage", 1),
}
_ALIGNMENT = 64
_LOCAL_HEADER = 30
_ROOT = "archive"


def write(file: BinaryIO, content: Any) -> None:
    """Write a checkpoint.

    Args:
        file: seekable, open for writing.
        content: dicts, lists, tuples, strings, numbers, None, and tensors as `safetensorsfile.Tensor`.
    """
    tensors: list[Tensor] = []
    description = b"\x80\x02" + b"".join(_pickle(content, tensors)) + b"."
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _record(archive, "data.pkl", description)
        _record(archive, "byteorder", b"little")
        for number, tensor in enumerate(tensors):
            _record(archive, f"data/{number}", tensor.data)
        _record(archive, "version", b"3\n")


def save(path: str | Path, content: Any) -> None:
    """`write` into a new file at `path`."""
    with open(path, "wb") as file:
        write(file, content)


def _record(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"{_ROOT}/{name}")
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(entry.filename) + 4  # 4: header of the padding field
    padding = -start % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(entry, data)


def _pickle(value: Any, tensors: list[Tensor]) -> Iterator[bytes]:
    """The instructions that rebuild `value`; tensors are referred to by their number and appended to `tensors`."""
    if isinstance(value, Tensor):
        yield _tensor(value, len(tensors))
        tensors.append(value)
    elif isinstance(value, dict):
        yield b"}("
        for key, item in value.items():
            yield _scalar(key)
            yield from _pickle(item, tensors)
        yield b"u"
    elif isinstance(value, (list, tuple)):
        yield b"](" if isinstance(value, list) else b"("
        for item in value:
            yield from _pickle(item, tensors)
        yield b"e" if isinstance(value, list) else b"t"
    else:
        yield _scalar(value)


def _scalar(value: object) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    assert isinstance(value, str), f"cannot be stored: {type(value).__name__}"
    text = value.encode()
    return b"X" + struct.pack("<I", len(text)) + text


def _tensor(tensor: Tensor, number: int) -> bytes:
    storage, width = _STORAGES[tensor.dtype]
    strides, step = [], 1
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= size
    assert step * width == len(tensor.data)
    reference = _tuple(_scalar("storage"), f"ctorch\n{storage}\n".encode(), _scalar(str(number)), _scalar("cpu"), step)
    arguments = _tuple(
        reference + b"Q",
        0,
        _tuple(*tensor.shape),
        _tuple(*reversed(strides)),
        False,
        b"ccollections\nOrderedDict\n)R",
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _tuple(*items: bytes | int) -> bytes:
    """A tuple of values that are pickled already, or of numbers."""
    return b"(" + b"".join(item if isinstance(item, bytes) else _scalar(item) for item in items) + b"t"
