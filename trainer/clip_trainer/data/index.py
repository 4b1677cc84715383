"""Opening a dataset: find its index or build it, and check it against the shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash

from clip_trainer.data.grouping import CAPTION_SUFFIXES, CLASS_SUFFIX, IMAGE_SUFFIXES
from clip_trainer.data.index_build import scan_shard
from clip_trainer.data.index_check import quick_problems
from clip_trainer.data.index_format import ShardIndex, ShardInfo
from clip_trainer.data.location import INDEX_NAME, Location, parse_location
from clip_trainer.data.progress import Progress, ProgressTracker
from clip_trainer.data.reader import ShardReader
from clip_trainer.data.samples import Need, ReadHints
from clip_trainer.data.source import Source, open_source
from clip_trainer.data.source_local import LocalSource
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, PermissionDeniedError

_NEEDS = {"image": IMAGE_SUFFIXES, "caption": CAPTION_SUFFIXES, "class": (CLASS_SUFFIX,)}


@dataclass(frozen=True)
class Dataset:
    """Indexed shards, ready to be read: where their bytes are and what is in them. Implements `samples.SampleSet`."""

    url: str
    source: Source
    index: ShardIndex

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
        return self.index.shards[shard].url

    def open_reader(self, hints: ReadHints) -> ShardReader:
        """A reader of the samples, every one verified against the index."""
        return ShardReader(self.source, self.index, hints)

    def require(self, *needs: Need) -> None:
        """Check that every shard can serve a purpose at all.

        Raises:
            CorruptError: a shard has not a single image, caption or class.
        """
        for shard in self.index.shards:
            for need in needs:
                if shard.count_with(*_NEEDS[need]) == 0:
                    raise CorruptError(
                        f"Shard {self.source.base}/{shard.url} has no {need} in any sample.",
                        hint=f"It needs members ending in: {', '.join(_NEEDS[need])}.",
                    )

    @staticmethod
    def attach(url: str, payload: bytes) -> Dataset:
        """A dataset from an index that another process has already opened and checked (`index.to_json()`)."""
        return Dataset(url, open_source(parse_location(url)), ShardIndex.from_json(payload))


def open_dataset(
    url: str,
    *,
    source: Source | None = None,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    build: bool = True,
    check: Literal["none", "quick"] = "quick",
) -> Dataset:
    """Open a directory of shards, a brace pattern of shards or a single shard.

    A missing index is built, which reads every shard once, and written beside the shards or, if that is not allowed,
    into `cache_dir`.

    Args:
        url: local path, `file://`, `s3://` or `http(s)://` location.
        source: storage to use instead of the one the location names.
        progress: told about the building of an index.
        cache_dir: for indexes of read-only datasets; by default `$XDG_CACHE_HOME/clipctl/index`.
        build: whether a missing index may be built.
        check: "quick" compares every shard's size and etag with the store.

    Raises:
        MissingError: no such dataset, a shard is missing, or there is no index and `build` is off.
        CorruptError: index or shards are damaged or do not belong together; names the shard.
        SpecError, PermissionDeniedError, UnavailableError: from parsing the location and from the store.
    """
    location = parse_location(url)
    source = source or open_source(location)
    index = _stored_index(source, location, cache_dir)
    fresh = index is None
    if index is None:
        if not build:
            raise MissingError(f"{url} has no {INDEX_NAME}.", hint=f"Run `clipctl data index {url}`.")
        index = _build_and_store(source, location, cache_dir, progress)
    if check == "quick" and not fresh:
        problems = quick_problems(source, index.shards)
        if problems:
            raise next(iter(problems.values()))
    return Dataset(url, source, index)


def index_dataset(url: str, *, force: bool = False, progress: Progress | None = None) -> Dataset:
    """Build and write the index (`clipctl data index`); an existing valid one is kept unless `force` is set."""
    if not force:
        return open_dataset(url, progress=progress)
    location = parse_location(url)
    source = open_source(location)
    return Dataset(url, source, _build_and_store(source, location, None, progress))


def build_index(
    source: Source, names: Iterable[str], *, progress: Progress | None = None, threads: int = 4
) -> ShardIndex:
    """Read every shard once and describe it.

    Raises:
        MissingError: there are no shards, or one does not exist.
        CorruptError: a shard is damaged.
    """
    names = tuple(names)
    if not names:
        hint = "Check the location, or make shards with `clipctl data pack`."
        raise MissingError(f"{source.base} holds no shards (*.tar).", hint=hint)
    tracker = ProgressTracker("index", len(names), progress)

    def scan(name: str) -> ShardInfo:
        shard = scan_shard(source, name, tracker.add_bytes)
        tracker.finish(name)
        return shard

    with ThreadPoolExecutor(min(threads, len(names))) as pool:
        try:
            return ShardIndex(tuple(pool.map(scan, names)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _stored_index(source: Source, location: Location, cache_dir: Path | None) -> ShardIndex | None:
    """The index beside the shards, else the cached one, restricted to the shards that are meant."""
    for place, name in ((source, INDEX_NAME), _cache_place(source, location, cache_dir)):
        try:
            payload = place.load(name)
        except MissingError:
            continue
        index = ShardIndex.from_json(payload, f"{place.base}/{name}")
        if location.names is None:
            return index
        try:
            return index.subset(location.names)
        except KeyError as error:
            raise MissingError(
                f"The index {place.base}/{name} has no shard {error}.",
                hint="Check the pattern, or run `clipctl data index --force` on the directory.",
            ) from error
    return None


def _build_and_store(
    source: Source, location: Location, cache_dir: Path | None, progress: Progress | None
) -> ShardIndex:
    names, whole = _names_to_index(source, location)
    index = build_index(source, names, progress=progress)
    payload = index.to_json()
    # An index beside the shards describes all of them: two datasets that share a directory must not overwrite
    # each other's. A part of a directory is indexed into the cache.
    if whole:
        try:
            source.save(INDEX_NAME, payload)
        except (CannotCreateError, PermissionDeniedError):
            whole = False
    if not whole:
        place, name = _cache_place(source, location, cache_dir)
        place.save(name, payload)
    return index if location.names is None else index.subset(location.names)


def _names_to_index(source: Source, location: Location) -> tuple[tuple[str, ...], bool]:
    """The shards that are meant, and whether they are all shards of the directory."""
    if location.names is None:
        return source.list_shards(), True
    try:
        listed = set(source.list_shards())
    except MissingError:
        return location.names, False
    return location.names, set(location.names) >= listed


def _cache_place(source: Source, location: Location, cache_dir: Path | None) -> tuple[Source, str]:
    """Where the index of a read-only dataset is kept."""
    if cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        cache_dir = Path(home) / "clipctl" / "index"
    names = "\n".join(location.names or ())
    key = xxhash.xxh3_128_hexdigest(f"{source.base}\n{names}".encode())
    return LocalSource(str(cache_dir)), f"{key}.json"
