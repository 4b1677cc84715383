"""Comparing shards with their index without reading them: sizes and etags."""

from __future__ import annotations

from collections.abc import Iterable

from clip_trainer.data.index_format import ShardInfo
from clip_trainer.data.source import ObjectInfo, Source
from clipctl.contract.errors import ClipError, CorruptError, MissingError


def quick_problems(source: Source, shards: Iterable[ShardInfo]) -> dict[str, ClipError]:
    """What is wrong with which shard: missing, of another size, or replaced since it was indexed."""
    shards = tuple(shards)
    found = source.info_many(shard.url for shard in shards)
    checked = ((shard.url, _difference(source, shard, found.get(shard.url))) for shard in shards)
    return {name: problem for name, problem in checked if problem is not None}


def _difference(source: Source, shard: ShardInfo, info: ObjectInfo | None) -> ClipError | None:
    """How a stored object differs from its entry in the index."""
    where = f"{source.base}/{shard.url}"
    if info is None:
        return MissingError(f"Shard {where} is in the index but does not exist.", hint="Restore it or index again.")
    hint = "If the change is intended, run `clipctl data index --force`; a running run must keep its data."
    if info.bytes != shard.bytes:
        return CorruptError(f"Shard {where} has {info.bytes} bytes, the index says {shard.bytes}.", hint=hint)
    if info.etag and shard.etag and info.etag != shard.etag:
        return CorruptError(f"Shard {where} has been replaced: its etag differs from the index.", hint=hint)
    return None
