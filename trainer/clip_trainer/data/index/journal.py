"""What an interrupted indexing has done so far, so that the next one does not read the same shards again.

An append-only file in the cache directory, one record a shard: sizes and digest of the record, the head of a table of
that one shard, and its block of rows. A record that was cut off by the interruption, and what follows it, is ignored.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import xxhash

from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.table import IndexedShard, decode_head, encode_head, make_table
from clipctl.contract.errors import CorruptError

_RECORD = struct.Struct("<QQQ")  # bytes of the head, bytes of the block, xxh3-64 of both
WORTH_KEEPING = 256 << 20
"""Bytes of shards that must have been read before anything is written."""


class IndexJournal:
    """Records of the shards that were read; safe to share between threads.

    Nothing is written at first (`WORTH_KEEPING`): small sets are quicker read again. A directory that cannot be
    written is no reason to fail: then there is no journal. Records that were not asked for are overwritten.

    Args:
        directory: where to keep it.
        base: the data set.
        rules: the rules; other rules give other rows, so they have a journal of their own.
    """

    def __init__(self, directory: Path, base: str, rules: SampleRules) -> None:
        key = xxhash.xxh3_128_hexdigest(f"{base}\n{rules}".encode())
        self._path = directory / f"{key}.journal"
        self._lock = Lock()
        self._waiting: list[IndexedShard] = []
        self._read_bytes = 0
        self._whole_bytes = 0  # of the records that were found
        self._file: BinaryIO | None = None
        self._broken = False

    def records(self) -> dict[str, IndexedShard]:
        """The shards that an earlier, interrupted indexing read, by name."""
        try:
            payload = self._path.read_bytes()
        except OSError:
            return {}
        found = {}
        for shard, end in _records(payload, str(self._path)):
            found[shard.entry.name] = shard
            self._whole_bytes = end
        return found

    def add(self, shard: IndexedShard) -> None:
        """Keep a shard that was read."""
        with self._lock:
            self._waiting.append(shard)
            self._read_bytes += shard.entry.bytes
            if self._read_bytes >= WORTH_KEEPING and not self._broken:
                self._write()

    def close(self, *, finished: bool) -> None:
        """Close the file, and delete it if the index was finished and written."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            if finished:
                with contextlib.suppress(OSError):
                    self._path.unlink()

    def _write(self) -> None:
        payload = b"".join(map(_record, self._waiting))
        self._waiting.clear()
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab")
                # Behind half a record nothing would be found again.
                self._file.truncate(self._whole_bytes)
            self._file.write(payload)
            self._file.flush()
        except OSError:
            self._broken = True


def _record(shard: IndexedShard) -> bytes:
    head = encode_head(make_table([shard.entry]))
    content = head + shard.block
    return _RECORD.pack(len(head), len(shard.block), xxhash.xxh3_64_intdigest(content)) + content


def _records(payload: bytes, where: str) -> Iterator[tuple[IndexedShard, int]]:
    """The whole records, up to the first that is not whole, and where each ends."""
    at = 0
    while at + _RECORD.size <= len(payload):
        head_bytes, block_bytes, check = _RECORD.unpack_from(payload, at)
        at += _RECORD.size
        content = payload[at : at + head_bytes + block_bytes]
        at += len(content)
        if xxhash.xxh3_64_intdigest(content) != check or len(content) < head_bytes + block_bytes:
            return
        try:
            entry = decode_head(content[:head_bytes], where).entry(0)
        except CorruptError:
            return
        yield IndexedShard(entry, content[head_bytes:]), at
