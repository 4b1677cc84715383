"""`clipctl data verify`: is every shard what its index says?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clip_trainer.data.index import open_dataset
from clip_trainer.data.index_build import scan_shard
from clip_trainer.data.index_check import quick_problems
from clip_trainer.data.index_format import ShardInfo
from clip_trainer.data.progress import Progress, ProgressTracker
from clip_trainer.data.source import Source
from clipctl.contract.errors import ClipError, CorruptError


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

    @property
    def ok(self) -> bool:
        """No shard has a problem."""
        return not self.problems


def verify_dataset(url: str, *, deep: bool = False, progress: Progress | None = None) -> VerifyReport:
    """Compare a dataset with its index: sizes and etags, or (`deep`) every byte and the structure of every tar.

    Problems of shards are reported, not raised.

    Raises:
        MissingError, CorruptError: there is no (valid) index to compare with.
    """
    dataset = open_dataset(url, build=False, check="none")
    source, shards = dataset.source, dataset.index.shards
    problems = quick_problems(source, shards)
    tracker = ProgressTracker("verify", len(shards), progress)
    for shard in shards:
        if deep and shard.url not in problems:
            problem = _deep_problem(source, shard, tracker)
            if problem is not None:
                problems[shard.url] = problem
        tracker.finish(shard.url)
    listed = tuple(ShardProblem(name, error.problem) for name, error in problems.items())
    return VerifyReport(len(shards), dataset.index.samples, dataset.index.total_bytes, deep, listed)


def _deep_problem(source: Source, shard: ShardInfo, tracker: ProgressTracker) -> ClipError | None:
    try:
        found = scan_shard(source, shard.url, tracker.add_bytes)
    except ClipError as error:
        return error
    if found.xxh3 != shard.xxh3:
        return CorruptError(f"Shard {source.base}/{shard.url} has the right size but other content (xxh3 differs).")
    if replace(found, etag=shard.etag) != shard:
        return CorruptError(f"The index describes shard {source.base}/{shard.url} wrongly.")
    return None
