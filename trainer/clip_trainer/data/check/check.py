"""`clipctl data check`: read samples as training would, and find out what is in them."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate, islice

from clip_trainer.data.check.sample import Examiner, Finding
from clip_trainer.data.check.tally import Tally
from clip_trainer.data.progress import Progress, ProgressEvent
from clip_trainer.data.sample_set import ReadHints, SampleReader, SampleSet
from clipctl.contract.errors import CorruptError

_CHUNK = 16  # samples of a task
_WAITING = 4  # tasks per thread that may be ahead of the adding up


Place = tuple[int, int]
"""Shard and index of a sample."""


def draw(counts: Sequence[int], wanted: int, seed: int) -> list[Place]:
    """Places of `wanted` samples (or of all, if there are no more), every one equally likely, in stored order.

    Args:
        counts: samples of each shard.
        wanted: how many to draw.
        seed: the same one draws the same samples.
    """
    ends = list(accumulate(counts))
    total = ends[-1] if ends else 0
    chosen = sorted(random.Random(seed).sample(range(total), min(wanted, total)))  # noqa: S311 - no secret
    shards = [bisect_right(ends, number) for number in chosen]
    return [(shard, number - ends[shard] + counts[shard]) for shard, number in zip(shards, chosen, strict=True)]


def every(counts: Sequence[int]) -> Iterator[Place]:
    """Places of all samples in stored order."""
    return ((shard, index) for shard, count in enumerate(counts) for index in range(count))


def check(
    samples: SampleSet,
    wanted: int | None,
    examiner: Examiner,
    *,
    seed: int = 0,
    previews: int = 0,
    threads: int = 2,
    progress: Progress | None = None,
) -> Tally:
    """Look at samples of a data set.

    Args:
        samples: the data set.
        wanted: how many to draw; None for all.
        examiner: looks at each of them.
        seed: of the draw.
        previews: how many of the usable samples to remember.
        threads: threads that read and decode.
        progress: told how many samples are done.

    Raises:
        MissingError, PermissionDeniedError, UnavailableError: from the store.
    """
    total = sum(samples.counts)
    # Draws lie far apart: blocks around them would be read for a single sample each.
    hints = ReadHints() if wanted is None else ReadHints(cache_bytes=0)
    places: Iterable[Place] = every(samples.counts) if wanted is None else draw(samples.counts, wanted, seed)
    look = partial(_look, samples.open_reader(hints), examiner)
    tally = Tally(previews, seed)
    expected = total if wanted is None else min(wanted, total)
    for findings in _ordered(look, places, threads):
        for finding in findings:
            tally.add(finding)
        if progress is not None:
            last = samples.shard_name(findings[-1].shard)
            progress(ProgressEvent("check", tally.read, expected, tally.bytes, last))
    return tally


def _ordered(
    look: Callable[[list[Place]], list[Finding]], places: Iterable[Place], threads: int
) -> Iterator[list[Finding]]:
    """Look at places in parallel; the findings come in the order of the places, whatever the threads do."""
    left = iter(places)
    waiting: deque[Future[list[Finding]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="clip-check") as pool:
        try:
            while True:
                while len(waiting) < _WAITING * threads and (chunk := list(islice(left, _CHUNK))):
                    waiting.append(pool.submit(look, chunk))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _look(reader: SampleReader, examiner: Examiner, places: list[Place]) -> list[Finding]:
    findings = []
    for shard, index in places:
        try:
            sample = reader.read(shard, index)
        except CorruptError:
            findings.append(Finding(shard, index, key="", damage="stored bytes differ from the index"))
            continue
        findings.append(examiner.examine(sample, shard, index))
    return findings
