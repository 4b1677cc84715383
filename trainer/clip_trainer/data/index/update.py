"""Bringing the index of a dataset up to date: only what is new or changed is read."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_trainer.data.index.build import OnShard, ShardScan, shard_infos
from clip_trainer.data.index.changes import IndexChanges, find_changes, is_unchanged
from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.join import make_index
from clip_trainer.data.index.journal import IndexJournal
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.store import (
    IndexPlace,
    default_cache,
    load_index,
    place_beside,
    place_in_cache,
    save_index,
)
from clip_trainer.data.index.table import IndexedShard
from clip_trainer.data.progress import Progress
from clip_trainer.data.storage.location import Location, parse_location
from clip_trainer.data.storage.source import ObjectInfo, Source, open_source
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, PermissionDeniedError


@dataclass(frozen=True)
class IndexUpdate:
    """An index that is up to date, and what had happened since it was last."""

    index: ShardIndex
    beside: bool
    """It lies beside the shards, not in the cache."""
    changes: IndexChanges


@dataclass(frozen=True)
class IndexOptions:
    """How to index."""

    rules: SampleRules | None = None
    """Which samples to list; None for the rules of the index there is, or all samples."""
    skip_damaged: bool = False
    """Leave damaged shards out, and list them in the index, instead of failing."""
    threads: int = 4
    """Shards read at the same time."""


def index_dataset(
    url: str,
    options: IndexOptions | None = None,
    *,
    name: str | None = None,
    force: bool = False,
    source: Source | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> IndexUpdate:
    """Build the index of a dataset, or bring it up to date, and write it (`clipctl data index`).

    It is written beside the shards. An index beside the shards describes all of them, so that of a part of a directory
    without an index goes into the cache, as does that of a directory that cannot be written.

    Args:
        url: directory of shards, brace pattern or single shard.
        options: which samples to list, and how to go about it.
        name: of a further index beside the main one.
        force: read every shard, whatever an earlier index says.
        source: storage to use instead of the one the location names.
        cache_dir: for indexes of read-only datasets and what an interrupted indexing has done.
        progress: told how far it is.

    Raises:
        MissingError: there are no shards, or one does not exist.
        CorruptError: shards are damaged; names them.
        SpecError, PermissionDeniedError, UnavailableError: from parsing the location and from the store.
    """
    options = options or IndexOptions()
    location = parse_location(url)
    source = source or open_source(location)
    beside, cache = place_beside(source, name), place_in_cache(source, location, cache_dir, name)
    old, place = _existing((beside, cache), may_guess=name is None or options.rules is not None)
    rules = options.rules or (old.header.rules if old is not None else SampleRules())
    shards, whole = _shards_meant(source, location, old if place is beside else None)
    known = {} if old is None or force or old.header.rules != rules else _by_name(old)
    changes = find_changes(shards, {name: shard.entry for name, shard in known.items()})
    if old is not None and not (changes.new or changes.changed or changes.gone or not known):
        return IndexUpdate(old, place is beside, changes)
    journal = IndexJournal((cache_dir or default_cache()) / "partial", source.base, rules)
    try:
        sure = known if force else {**known, **journal.records()}
        index = _updated(source, shards, sure, rules, options, journal.add, progress)
        beside_now = _save(index, beside if whole else None, cache)
    except BaseException:
        journal.close(finished=False)
        raise
    journal.close(finished=True)
    before = {name: f"{shard.entry.xxh3:032x}" for name, shard in known.items()}
    return IndexUpdate(index, beside_now, changes.settled(before, {shard.url: shard.xxh3 for shard in index.shards}))


def _updated(
    source: Source,
    shards: Sequence[ObjectInfo],
    known: dict[str, IndexedShard],
    rules: SampleRules,
    options: IndexOptions,
    on_shard: OnShard,
    progress: Progress | None,
) -> ShardIndex:
    """The index of these shards, of which those that are unchanged since they were known are not read."""
    entries = {
        info.name: known[info.name]
        for info in shards
        if info.name in known and is_unchanged(info, known[info.name].entry)
    }
    scan = ShardScan(source, rules, threads=options.threads, skip_damaged=options.skip_damaged, on_shard=on_shard)
    entries |= scan.run([info for info in shards if info.name not in entries], progress)
    listed = [entries[info.name] for info in shards if info.name in entries]
    if not listed:
        raise CorruptError(f"Every shard of {source.base} is damaged.", hint="Fetch or pack them again.")
    # Problems name the shard by its whole location, which an index that travels with its shards must not.
    damaged = {name: error.problem.replace(f"{source.base}/", "") for name, error in sorted(scan.damaged.items())}
    index = make_index(listed, rules, damaged)
    if not index.samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(index.header.left_out.items()))
        raise MissingError(f"The rules leave no sample of {source.base} ({reasons}).", hint="Loosen them.")
    return index


def _existing(places: Sequence[IndexPlace], *, may_guess: bool) -> tuple[ShardIndex | None, IndexPlace]:
    """The index there is, and its place. A damaged one counts as none, unless its rules cannot be guessed."""
    for place in places:
        try:
            return load_index(place, whole=True), place
        except MissingError:
            continue
        except CorruptError:
            if not may_guess:
                raise
    return None, places[0]


def _shards_meant(source: Source, location: Location, old: ShardIndex | None) -> tuple[list[ObjectInfo], bool]:
    """The shards to index, and whether the index belongs beside them.

    An index beside the shards that is to be updated for a part of its directory keeps its other shards.
    """
    if location.names is None:
        return shard_infos(source, source.list_shards()), True
    meant = shard_infos(source, location.names)
    if old is not None:
        others = [name for name in old.table.all_names() if name not in set(location.names)]
        infos = source.info_many(others)
        return sorted([*meant, *infos.values()]), True
    try:
        return meant, set(location.names) >= set(source.list_shards())
    except MissingError:
        return meant, False


def _by_name(index: ShardIndex) -> dict[str, IndexedShard]:
    """What the index knows of each shard. One whose rows are damaged is not known, so it will be read."""
    known = {}
    for shard in range(len(index.table)):
        with contextlib.suppress(CorruptError):
            entry = index.table.entry(shard)
            known[entry.name] = IndexedShard(entry, index.block(shard))
    return known


def _save(index: ShardIndex, beside: IndexPlace | None, cache: IndexPlace) -> bool:
    """Write the index; whether it was written beside the shards."""
    if beside is not None:
        try:
            save_index(beside.source, index, beside.name)
        except (CannotCreateError, PermissionDeniedError):
            pass
        else:
            return True
    save_index(cache.source, index, cache.name)
    return False
