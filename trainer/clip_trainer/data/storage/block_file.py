"""A block of a shard as a file, with a digest for every 64 KiB of it: any part can be read alone and verified.

Layout: magic, size of the block, xxh3-64 of each piece, xxh3-64 of all that, then the block.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from pathlib import Path

import xxhash

PIECE = 64 << 10
"""Bytes that share a digest."""

_HEAD = struct.Struct("<4sQ")  # magic, bytes of the block
_DIGEST = struct.Struct("<Q")
_MAGIC = b"CLB1"
_LARGEST = 1 << 30  # bytes of a block; a damaged size must not become an allocation


class DamagedBlockError(Exception):
    """The file is not what was written."""


def file_bytes(size: int) -> int:
    """Bytes of the file of a block of this size."""
    return _HEAD.size + (-(-size // PIECE) + 1) * _DIGEST.size + size


def write_block(path: Path, block: bytes) -> None:
    """Write beside the place, then rename: a killed process leaves nothing half-written under the name.

    Raises:
        OSError: no space, or no permission.
    """
    head = _HEAD.pack(_MAGIC, len(block))
    with memoryview(block) as view:
        head += b"".join(_digest(view[at : at + PIECE]) for at in range(0, len(block), PIECE))
    path.parent.mkdir(exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(head + _digest(head))
            file.write(block)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def read_block(path: Path, start: int, stop: int) -> bytes:
    """The bytes `[start, stop)` of a block, fewer if it ends before.

    Raises:
        DamagedBlockError: they are not those that were written.
        OSError: there is no such file.
    """
    with path.open("rb", buffering=0) as file:
        size, digests = _read_head(file.fileno())
        stop = min(stop, size)
        if start >= stop:
            return b""
        first, last = start // PIECE, -(-stop // PIECE)
        begin, end = first * PIECE, min(last * PIECE, size)
        content = os.pread(file.fileno(), end - begin, file_bytes(size) - size + begin)
    with memoryview(content) as view:
        found = b"".join(_digest(view[at : at + PIECE]) for at in range(0, end - begin, PIECE))
    if len(content) < end - begin or found != digests[first * _DIGEST.size : last * _DIGEST.size]:
        raise DamagedBlockError
    return content[start - begin : stop - begin]


def _read_head(descriptor: int) -> tuple[int, bytes]:
    """Size of the block and the digests of its pieces."""
    head = os.pread(descriptor, _HEAD.size, 0)
    magic, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
    if magic != _MAGIC or size > _LARGEST:
        raise DamagedBlockError
    rest = os.pread(descriptor, file_bytes(size) - size - _HEAD.size, _HEAD.size)
    digests, own = rest[: -_DIGEST.size], rest[-_DIGEST.size :]
    if own != _digest(head + digests):
        raise DamagedBlockError
    return size, digests


def _digest(data: bytes | memoryview) -> bytes:
    return _DIGEST.pack(xxhash.xxh3_64_intdigest(data))
