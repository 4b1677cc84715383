"""The table of an index: one entry a shard, in columns, so that a million entries are a few reads of memory.

`index-<digest>.bin` has two parts, all numbers little-endian. The *head* is eight bytes of magic, the numbers of
shards, of bytes of all names and of bytes of all etags (uint64), the columns below one after the other, all names and
all etags. Behind it lie the blocks of rows (`rows`), one a shard. The digest of the head stands in the header
(`header`), and the head holds a digest of every block: whatever is read has been verified, without reading more.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import xxhash

from clip_trainer.data.storage.source import checked_name
from clipctl.contract.errors import CorruptError

_MAGIC = b"CLIPIDX2"
_START = struct.Struct("<8sQQQ")
_COLUMNS = (
    *(("name_end", "Q"), ("etag_end", "Q"), ("bytes", "Q"), ("modified", "Q"), ("xxh3_high", "Q"), ("xxh3_low", "Q")),
    *(("block_at", "Q"), ("block_check", "Q"), ("block_bytes", "I"), ("samples", "I")),
    *(("images", "I"), ("captions", "I"), ("classes", "I")),
)
_ROW_BYTES = sum(array(code).itemsize for _, code in _COLUMNS)
assert _ROW_BYTES == 84, "the index needs C integers of 32 and 64 bits"


class ShardEntry(NamedTuple):
    """What the table says about one shard."""

    name: str
    bytes: int
    etag: str  # empty if the store has none
    modified: int  # of a local file, nanoseconds; 0 where unknown
    xxh3: int  # xxh3-128 of the content
    block_at: int  # place of the rows behind the head, bytes
    block_bytes: int
    block_check: int  # xxh3-64 of the block
    samples: int
    images: int  # samples that have one, as below
    captions: int
    classes: int


class IndexedShard(NamedTuple):
    """All an index keeps of one shard."""

    entry: ShardEntry
    block: bytes
    """Its rows, see `rows`."""


@dataclass(frozen=True)
class ShardTable:
    """Columns of all shards, in order; `names` and `etags` are the concatenated texts."""

    columns: dict[str, Sequence[int]]
    names: bytes | memoryview
    etags: bytes | memoryview

    def __len__(self) -> int:
        return len(self.columns["samples"])

    def name(self, shard: int) -> str:
        """Name of a shard, checked to stay below the base."""
        return checked_name(_cut(self.names, self.columns["name_end"], shard))

    def entry(self, shard: int) -> ShardEntry:
        """All about one shard. Raises CorruptError if it is impossible."""
        column = {name: values[shard] for name, values in self.columns.items()}
        xxh3 = column.pop("xxh3_high") << 64 | column.pop("xxh3_low")
        del column["name_end"], column["etag_end"]
        etag = _cut(self.etags, self.columns["etag_end"], shard)
        return ShardEntry(name=self.name(shard), etag=etag, xxh3=xxh3, **column)

    def all_names(self) -> list[str]:
        """Every name, in order."""
        ends = list(self.columns["name_end"])
        return [_text(self.names[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def has_names(self, names: Sequence[str]) -> bool:
        """Whether these are the shards of the table, in order; quicker than making its names."""
        encoded = [_bytes(name) for name in names]
        return b"".join(encoded) == self.names and list(accumulate(map(len, encoded))) == list(self.columns["name_end"])

    def content_digest(self) -> str:
        """Digest of what is in the shards, in order; the same for copies, wherever and whenever they were made."""
        digest = xxhash.xxh3_128()
        for name in ("name_end", "xxh3_high", "xxh3_low", "samples", "block_check"):
            digest.update(_little_endian(self.columns[name]))
        digest.update(self.names)
        return digest.hexdigest()


def make_table(entries: Iterable[ShardEntry]) -> ShardTable:
    """The columns of these entries."""
    columns = {name: array(code) for name, code in _COLUMNS}
    names, etags = bytearray(), bytearray()
    for entry in entries:
        names += _bytes(entry.name)
        etags += _bytes(entry.etag)
        row = {**entry._asdict(), "name_end": len(names), "etag_end": len(etags)}
        row["xxh3_high"], row["xxh3_low"] = divmod(entry.xxh3, 1 << 64)
        for name, values in columns.items():
            values.append(row[name])
    return ShardTable(dict(columns), bytes(names), bytes(etags))


def place_blocks(entries: Iterable[ShardEntry]) -> list[ShardEntry]:
    """The entries with their blocks one after the other."""
    placed, at = [], 0
    for entry in entries:
        placed.append(entry._replace(block_at=at))
        at += entry.block_bytes
    return placed


def encode_head(table: ShardTable) -> bytes:
    """The first part of the file."""
    start = _START.pack(_MAGIC, len(table), len(table.names), len(table.etags))
    columns = (_little_endian(table.columns[name]) for name, _ in _COLUMNS)
    return b"".join((start, *columns, table.names, table.etags))


def decode_head(head: bytes, where: str) -> ShardTable:
    """The columns, as views of the head.

    Raises:
        CorruptError: it is not the head of a table.
    """
    view = memoryview(head)
    if len(head) < _START.size:
        raise CorruptError(f"{where} is not the table of a shard index.")
    magic, shards, name_bytes, etag_bytes = _START.unpack_from(head)
    if magic != _MAGIC or len(head) != _START.size + shards * _ROW_BYTES + name_bytes + etag_bytes:
        raise CorruptError(f"{where} is not the table of a shard index.")
    columns: dict[str, Sequence[int]] = {}
    at = _START.size
    for name, code in _COLUMNS:
        end = at + shards * array(code).itemsize
        columns[name] = _native(view[at:end], code)
        at = end
    table = ShardTable(columns, view[at : at + name_bytes], view[at + name_bytes :])
    for name, size in (("name_end", name_bytes), ("etag_end", etag_bytes)):
        if shards and columns[name][-1] != size:
            raise CorruptError(f"{where} contradicts itself.")
    return table


def _cut(texts: bytes | memoryview, ends: Sequence[int], index: int) -> str:
    start = ends[index - 1] if index else 0
    return _text(texts[start : ends[index]])


def _text(encoded: bytes | memoryview) -> str:
    return str(encoded, "utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    # File systems allow names that are not UTF-8; Python shows them with surrogates.
    return text.encode("utf-8", "surrogateescape")


def _native(view: memoryview, code: str) -> Sequence[int]:
    if sys.byteorder == "little":
        return view.cast(code)  # type: ignore[call-overload, no-any-return]
    values = array(code, view.tobytes())
    values.byteswap()
    return values


def _little_endian(values: Sequence[int]) -> bytes:
    assert isinstance(values, array | memoryview)
    if sys.byteorder == "little":
        return values.tobytes()
    swapped = array(values.typecode if isinstance(values, array) else values.format, values)
    swapped.byteswap()
    return swapped.tobytes()
