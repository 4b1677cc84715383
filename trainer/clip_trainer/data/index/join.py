"""Putting an index together: from what was found in shards, or from a header and the table it names."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from clip_trainer.data.index.format import ReadTable, ShardIndex
from clip_trainer.data.index.header import INDEX_HINT, IndexHeader, TableRef
from clip_trainer.data.index.rows import unpack_details
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.table import IndexedShard, decode_head, encode_head, make_table, place_blocks
from clipctl.contract.errors import CorruptError


def make_index(shards: Iterable[IndexedShard], rules: SampleRules, damaged: dict[str, str] | None = None) -> ShardIndex:
    """An index, its table in memory, from what was found in each shard."""
    shards = tuple(shards)
    table = make_table(place_blocks(entry for entry, _ in shards))
    head = encode_head(table)
    xxh3 = xxhash.xxh3_128_hexdigest(head)
    file = b"".join((head, *(block for _, block in shards)))
    suffixes: dict[str, int] = {}
    left_out: dict[str, int] = {}
    for entry, block in shards:
        details = unpack_details(block, entry.samples)
        for total, counts in ((suffixes, details.suffixes), (left_out, details.left_out)):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
    header = IndexHeader(
        shards=len(table),
        samples=sum(table.columns["samples"]),
        bytes=sum(table.columns["bytes"]),
        identity=table.content_digest(),
        table=TableRef(f"index-{xxh3}.bin", len(file), len(head), xxh3),
        rules=rules,
        suffixes=suffixes,
        left_out=left_out,
        damaged=damaged or {},
    )
    return ShardIndex(header, table, in_memory(file), header.table.name)


def join_index(header: IndexHeader, read: ReadTable, where: str) -> ShardIndex:
    """The index of a header and the table it names.

    Raises:
        CorruptError: the table is damaged or another one.
    """
    head = read(0, header.table.head_bytes)
    if xxhash.xxh3_128_hexdigest(head) != header.table.xxh3:
        raise CorruptError(f"{where} is damaged: it does not match its digest.", hint=INDEX_HINT)
    table = decode_head(head, where)
    columns = table.columns
    totals = (len(table), sum(columns["samples"]), sum(columns["bytes"]))
    if totals != (header.shards, header.samples, header.bytes):
        raise CorruptError(f"{where} and its header disagree about the number of samples.", hint=INDEX_HINT)
    return ShardIndex(header, table, read, where)


def in_memory(file: bytes) -> ReadTable:
    """Reads a table that is in memory; less comes out behind its end, which its digests notice."""
    return lambda offset, length: file[offset : offset + length]
