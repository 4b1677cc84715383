"""Comparing shards with their index without reading them: sizes and etags."""

from __future__ import annotations

from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.table import ShardEntry
from clip_trainer.data.storage.source import ObjectInfo, Source
from clipctl.contract.errors import ClipError, CorruptError, MissingError

MAX_QUICK = 10_000
"""Shards up to which opening a dataset compares sizes and etags: ten listings of a thousand objects.

The objects of larger datasets are pinned by their etags when they are read."""


def quick_problems(source: Source, index: ShardIndex) -> dict[str, ClipError]:
    """What is wrong with which shard: missing, of another size, or replaced since it was indexed."""
    table = index.table
    found = source.info_many(table.all_names())
    problems: dict[str, ClipError] = {}
    for shard in range(len(table)):
        entry = table.entry(shard)
        problem = _difference(source, entry, found.get(entry.name))
        if problem is not None:
            problems[entry.name] = problem
    return problems


def _difference(source: Source, entry: ShardEntry, info: ObjectInfo | None) -> ClipError | None:
    """How a stored object differs from its entry in the index."""
    where = f"{source.base}/{entry.name}"
    if info is None:
        return MissingError(f"Shard {where} is in the index but does not exist.", hint="Restore it or index again.")
    hint = "If the change is intended, run `clipctl data index`; a running run must keep its data."
    if info.bytes != entry.bytes:
        return CorruptError(f"Shard {where} has {info.bytes} bytes, the index says {entry.bytes}.", hint=hint)
    if info.etag and entry.etag and info.etag != entry.etag:
        return CorruptError(f"Shard {where} has been replaced: its etag differs from the index.", hint=hint)
    return None
