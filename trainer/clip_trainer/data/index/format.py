"""The shard index: what is in the shards, so that any sample is one ranged read away.

Two objects lie beside the shards: a small header (`header`) and a binary table (`table`) whose rows
(`rows`) are read shard by shard when they are needed. An index of a million shards and a hundred million samples
opens in a fraction of a second, and nothing of it is believed before its digest was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import overload

import xxhash

from clip_trainer.data.index.header import IndexHeader
from clip_trainer.data.index.rows import RowCache, SampleRows, unpack_rows, verified_block
from clip_trainer.data.index.table import (
    ShardTable,
    make_table,
)

ReadTable = Callable[[int, int], bytes]
"""Reads the table file: offset, length."""

_INFOS_KEPT = 4096


def sample_check(data: bytes) -> int:
    """The 32-bit check of a sample's bytes."""
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


@dataclass(frozen=True)
class ShardInfo:
    """One shard: its identity, and where its samples lie (read from the table on first use)."""

    url: str  # relative to the dataset's base
    bytes: int
    samples: int
    etag: str | None
    xxh3: str  # xxh3-128 of the content, hex
    images: int  # samples that have an image, as below
    captions: int
    classes: int
    rows: Callable[[], SampleRows] = field(repr=False, compare=False)

    @property
    def check_values(self) -> Sequence[int]:
        """The check of every sample."""
        return self.rows().checks

    def sample_range(self, index: int) -> tuple[int, int]:
        """Offset and length in bytes of one sample's members."""
        return self.rows().range(index)


class ShardIndex:
    """The shards of a dataset, in order.

    Safe to share between threads. Two are equal if their digests are.

    Args:
        header: the header.
        table: the table's columns.
        read: reads the table's file, for the rows.
        where: how errors call the table.
    """

    def __init__(self, header: IndexHeader, table: ShardTable, read: ReadTable, where: str) -> None:
        self.header, self.table = header, table
        self.whole = self
        self._read, self._where = read, where
        self._cache = RowCache()
        self._info = lru_cache(_INFOS_KEPT)(self._new_info)

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """Every shard, described when it is asked for."""
        return _Shards(self)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples of each shard."""
        return tuple(self.table.columns["samples"])

    @cached_property
    def first_ids(self) -> tuple[int, ...]:
        """Global id of each shard's first sample."""
        return tuple(accumulate(self.counts, initial=0))[:-1]

    @property
    def samples(self) -> int:
        """Samples of the dataset."""
        return self.header.samples

    @property
    def total_bytes(self) -> int:
        """Bytes of the dataset."""
        return self.header.bytes

    @property
    def digest(self) -> str:
        """Changes whenever anything in the index does, hex."""
        return self.header.digest

    @property
    def identity(self) -> str:
        """Digest of the shards' names and contents and of which samples are listed: equal for copies of a dataset."""
        return self.header.identity

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardIndex) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def subset(self, names: Sequence[str]) -> ShardIndex:
        """The index of these shards only, in this order. Raises KeyError for a shard that is not in it."""
        if self.table.has_names(names):
            return self
        numbers = {name: number for number, name in enumerate(self.table.all_names())}
        table = make_table(self.table.entry(numbers[name]) for name in names)
        columns = table.columns
        header = replace(
            self.header,
            shards=len(table),
            samples=sum(columns["samples"]),
            bytes=sum(columns["bytes"]),
            identity=table.content_digest(),
        )
        part = ShardIndex(header, table, self._read, self._where)
        part.whole = self.whole
        return part

    def table_file(self) -> bytes:
        """The file of the whole index's table."""
        return self._read(0, self.header.table.bytes)

    def block(self, shard: int) -> bytes:
        """The block of rows of a shard, as stored. Raises CorruptError if it is damaged."""
        columns = self.table.columns
        offset = self.header.table.head_bytes + columns["block_at"][shard]
        block = self._read(offset, columns["block_bytes"][shard])
        return verified_block(
            block, columns["block_check"][shard], f"{self._where}: the rows of {self.table.name(shard)}"
        )

    def _rows(self, shard: int) -> SampleRows:
        samples = self.table.columns["samples"][shard]
        return self._cache.get(shard, lambda: unpack_rows(self.block(shard), samples))

    def _new_info(self, shard: int) -> ShardInfo:
        entry = self.table.entry(shard)
        return ShardInfo(
            entry.name,
            entry.bytes,
            entry.samples,
            entry.etag or None,
            f"{entry.xxh3:032x}",
            entry.images,
            entry.captions,
            entry.classes,
            lambda: self._rows(shard),
        )


class _Shards(Sequence[ShardInfo]):
    """The shards of an index as a sequence."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index.table)

    @overload
    def __getitem__(self, place: int) -> ShardInfo: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[ShardInfo, ...]: ...

    def __getitem__(self, place: int | slice) -> ShardInfo | tuple[ShardInfo, ...]:
        if isinstance(place, slice):
            return tuple(self._index._info(shard) for shard in range(*place.indices(len(self))))
        return self._index._info(range(len(self))[place])
