"""Opening a dataset: find its index or build it, and check it against the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_trainer.data.index.build import build_index
from clip_trainer.data.index.check import MAX_QUICK, quick_problems
from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.header import header_name
from clip_trainer.data.index.reader import ShardReader
from clip_trainer.data.index.store import (
    IndexPlace,
    describe_index,
    join_described,
    load_index,
    place_beside,
    place_in_cache,
)
from clip_trainer.data.index.update import index_dataset
from clip_trainer.data.progress import Progress
from clip_trainer.data.sample_set import Need, ReadHints
from clip_trainer.data.shards.grouping import CAPTION_SUFFIXES, CLASS_SUFFIX, IMAGE_SUFFIXES
from clip_trainer.data.storage.location import Location, parse_location
from clip_trainer.data.storage.source import Source, open_source
from clipctl.contract.errors import CorruptError, MissingError

__all__ = ["Dataset", "build_index", "index_dataset", "open_dataset"]

_COLUMNS = {"image": "images", "caption": "captions", "class": "classes"}
_SUFFIXES = {"image": IMAGE_SUFFIXES, "caption": CAPTION_SUFFIXES, "class": (CLASS_SUFFIX,)}


@dataclass(frozen=True)
class Dataset:
    """Indexed shards, ready to be read: where their bytes are and what is in them. Implements `samples.SampleSet`."""

    url: str
    source: Source
    index: ShardIndex
    beside: bool = True
    """The index lies beside the shards, where every process can read it, not in a cache of this machine."""

    @property
    def remote(self) -> bool:
        """Reading waits for a network."""
        return self.source.remote

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each shard."""
        return self.index.counts

    @property
    def identity(self) -> str:
        """See `ShardIndex.identity`."""
        return self.index.identity

    def shard_name(self, shard: int) -> str:
        """Name of a shard below the base."""
        return self.index.table.name(shard)

    def open_reader(self, hints: ReadHints) -> ShardReader:
        """A reader of the samples, every one verified against the index."""
        return ShardReader(self.source, self.index, hints)

    def require(self, *needs: Need) -> None:
        """Check that every shard can serve a purpose at all.

        Raises:
            CorruptError: a shard has not a single image, caption or class.
        """
        columns = self.index.table.columns
        for need in needs:
            having = columns[_COLUMNS[need]]
            if min(having, default=1) > 0:
                continue
            for shard, (samples, count) in enumerate(zip(columns["samples"], having, strict=True)):
                if samples and not count:
                    raise CorruptError(
                        f"Shard {self.source.base}/{self.shard_name(shard)} has no {need} in any sample.",
                        hint=f"It needs members ending in: {', '.join(_SUFFIXES[need])}.",
                    )

    def payload(self) -> bytes:
        """What another process needs to `attach`: small, unless the table is only in this machine's cache."""
        return describe_index(self.index, with_table=not self.beside)

    @staticmethod
    def attach(url: str, payload: bytes) -> Dataset:
        """A dataset that another process has opened and checked, from its `payload`.

        Raises:
            CorruptError: the payload, or the table it speaks of, is damaged.
        """
        location = parse_location(url)
        source = open_source(location)
        return Dataset(url, source, _part(join_described(payload, source), location, url))


def open_dataset(
    url: str,
    *,
    name: str | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    build: bool = True,
    check: Literal["none", "quick"] = "quick",
) -> Dataset:
    """Open a directory of shards, a brace pattern of shards or a single shard.

    A missing index is built, which reads every shard once, and written beside the shards or, if that is not allowed,
    into `cache_dir`. An index with a name was made with rules of its own, so it is never built here.

    Args:
        url: local path, `file://`, `s3://` or `http(s)://` location.
        name: which index of the data set, if not the main one.
        source: storage to use instead of the one the location names.
        progress: told about the building of an index.
        cache_dir: for indexes of read-only datasets; by default `$XDG_CACHE_HOME/clipctl/index`.
        build: whether a missing index may be built.
        check: "quick" compares every shard's size and etag with the store, if there are no more than 10,000; the
            objects of larger datasets are only pinned, by their etags, when they are read.

    Raises:
        MissingError: no such dataset, a shard is missing, or there is no index and it may not be built.
        CorruptError: index or shards are damaged or do not belong together; names the shard.
        SpecError, PermissionDeniedError, UnavailableError: from parsing the location and from the store.
    """
    location = parse_location(url)
    source = source or open_source(location)
    beside = place_beside(source, name)
    for place in (beside, place_in_cache(source, location, cache_dir, name)):
        index = _stored(place, location)
        if index is not None:
            if check == "quick" and len(index.shards) <= MAX_QUICK:
                _refuse_problems(source, index)
            return Dataset(url, source, index, beside=place is beside)
    if name is not None or not build:
        option = f" --name {name}" if name else ""
        raise MissingError(f"{url} has no {header_name(name)}.", hint=f"Run `clipctl data index {url}{option}`.")
    made = index_dataset(url, source=source, progress=progress, cache_dir=cache_dir)
    return Dataset(url, source, _part(made.index, location, url), made.beside)


def _stored(place: IndexPlace, location: Location) -> ShardIndex | None:
    """The index at a place, restricted to the shards that are meant."""
    try:
        index = load_index(place)
    except MissingError:
        return None
    return _part(index, location, str(place))


def _part(index: ShardIndex, location: Location, where: str) -> ShardIndex:
    if location.names is None:
        return index
    try:
        return index.subset(location.names)
    except KeyError as error:
        raise MissingError(
            f"The index {where} has no shard {error}.",
            hint="Check the pattern, or run `clipctl data index` on the directory.",
        ) from error


def _refuse_problems(source: Source, index: ShardIndex) -> None:
    problems = quick_problems(source, index)
    if problems:
        raise next(iter(problems.values()))
