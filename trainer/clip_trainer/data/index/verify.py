"""`clipctl data verify`: is every shard what its index says?"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clip_trainer.data.index.check import quick_problems
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.progress import Progress, ProgressTracker
from clip_trainer.data.storage.source import ObjectInfo, Source
from clipctl.contract.errors import ClipError, CorruptError, MissingError


@dataclass(frozen=True)
class ShardProblem:
    """What is wrong with one shard."""

    shard: str
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify_dataset`."""

    shards: int
    samples: int
    bytes: int
    deep: bool
    problems: tuple[ShardProblem, ...]
    unindexed: tuple[str, ...] = ()
    """Shards that lie there but are not in the index: nothing will read them."""

    @property
    def ok(self) -> bool:
        """No shard of the index has a problem."""
        return not self.problems


def verify_dataset(
    url: str, *, name: str | None = None, deep: bool = False, threads: int = 4, progress: Progress | None = None
) -> VerifyReport:
    """Compare a dataset with its index: sizes and etags, or (`deep`) every byte and the structure of every tar.

    Problems of shards are reported, not raised.

    Args:
        url: directory of shards, brace pattern or single shard.
        name: which index, if not the main one.
        deep: whether to read everything; the rows of the index are compared too.
        threads: shards read at the same time.
        progress: told how far it is.

    Raises:
        MissingError, CorruptError: there is no (valid) index to compare with.
        PermissionDeniedError, UnavailableError: from the store.
    """
    dataset = open_dataset(url, name=name, build=False, check="none")
    source, index = dataset.source, dataset.index
    problems = quick_problems(source, index)
    if deep:
        rest = [shard for shard, listed in enumerate(index.table.all_names()) if listed not in problems]
        problems |= _deep_problems(source, index, rest, threads, progress)
    listed = tuple(ShardProblem(name, error.problem) for name, error in sorted(problems.items()))
    return VerifyReport(
        len(index.shards), index.samples, index.total_bytes, deep, listed, _unindexed(source, index.whole)
    )


def _deep_problems(
    source: Source, index: ShardIndex, shards: list[int], threads: int, progress: Progress | None
) -> dict[str, ClipError]:
    """Problems of shards that have the right size, by name."""
    tracker = ProgressTracker("verify", len(shards), progress)
    problems: dict[str, ClipError] = {}

    def check(shard: int) -> None:
        problem = _deep_problem(source, index, shard, tracker)
        name = index.table.name(shard)
        if problem is not None:
            problems[name] = problem
        tracker.finish(name)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in pool.map(check, shards):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def _deep_problem(source: Source, index: ShardIndex, shard: int, tracker: ProgressTracker) -> ClipError | None:
    entry = index.table.entry(shard)
    info = ObjectInfo(entry.name, entry.bytes, entry.etag or None, entry.modified)
    try:
        index.block(shard)
        found = scan_shard(source, info, index.header.rules, tracker.add_bytes).entry
    except (CorruptError, MissingError) as error:
        return error
    where = f"{source.base}/{entry.name}"
    if found.xxh3 != entry.xxh3:
        return CorruptError(f"Shard {where} has the right size but other content (xxh3 differs).")
    if found._replace(block_at=entry.block_at) != entry:  # the rows too, by their digest
        return CorruptError(f"The index describes shard {where} wrongly.")
    return None


def _unindexed(source: Source, index: ShardIndex) -> tuple[str, ...]:
    """Shards beside those of the index; none where the store cannot list."""
    known: Iterable[str] = {*index.table.all_names(), *index.header.damaged}
    try:
        return tuple(name for name in source.list_shards() if name not in known)
    except MissingError:
        return ()
