"""Samples in, shards out: many threads make the samples, one order of writing, and never a half shard.

Where a shard ends depends on the samples alone, so the bytes are the same with one worker and with many, and after any
number of interruptions. Every shard is followed by a new record (see `shard_record`); samples that were left out are
listed in `shard-NNNNNN.errors.jsonl`, beside the shard they would have been in.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from clip_trainer.data.progress import Progress, ProgressEvent
from clip_trainer.data.storage.source import Source
from clip_trainer.data.writing.shard_producer import NewSample, Outcome, Producer, Unpackable
from clip_trainer.data.writing.shard_record import ShardRecord, shard_name
from clip_trainer.data.writing.shard_tar import TarBuffer, archive_size, members_bytes
from clipctl.contract.errors import SpecError

_BATCH = 16  # samples a thread makes at a time
_BATCHES_AHEAD = 2  # per thread, so that nobody waits while a shard is cut
_UPLOADS = 3  # whole shards on their way to a remote store; to a disk one suffices


@dataclass(frozen=True)
class WriteOptions:
    """How shards are cut, by how many threads, and what happens to samples that cannot be written."""

    samples_per_shard: int = 1000
    shard_bytes: int | None = None  # no shard is larger, unless by its only sample
    workers: int = 1
    skip_errors: bool = False

    def __post_init__(self) -> None:
        """Raises SpecError for numbers that mean nothing."""
        if min(self.samples_per_shard, self.workers, self.shard_bytes or 1) < 1:
            raise SpecError("A shard has at least one sample, and at least one thread makes them.")


def write_shards(
    producer: Producer, sink: Source, record: ShardRecord, options: WriteOptions, progress: Progress | None
) -> ShardRecord:
    """Write the shards that the record lacks; returns the record of all of them.

    Raises:
        ClipError: of the first sample that cannot be written, unless errors are skipped; whole shards stay.
    """
    with ThreadPoolExecutor(options.workers) as makers, ThreadPoolExecutor(_UPLOADS) as savers:
        committer = _Committer(sink, savers, record)
        try:
            _write(_made(makers, producer, record.position, options.workers), producer, committer, options, progress)
            return committer.finish()
        except BaseException:
            makers.shutdown(cancel_futures=True)
            savers.shutdown(cancel_futures=True)
            raise


def _write(
    made: Iterator[tuple[int, Outcome]],
    producer: Producer,
    committer: _Committer,
    options: WriteOptions,
    progress: Progress | None,
) -> None:
    """Put the samples into shards one after the other."""
    total = len(producer)
    shard = _Shard(options)
    for position, outcome in made:
        if isinstance(outcome, Unpackable):
            if not options.skip_errors:
                committer.finish()
                raise outcome.error
            shard.leave_out(outcome)
        elif not shard.add(outcome):
            committer.commit(shard, position)
            shard = _Shard(options)
            added = shard.add(outcome)
            assert added, "an empty shard takes any sample"
        if progress is not None and ((position + 1) % _BATCH == 0 or position + 1 == total):
            written = committer.record.bytes + shard.size
            progress(ProgressEvent(producer.stage, position + 1, total, written, shard_name(committer.record.shards)))
    if shard.samples or shard.errors:
        committer.commit(shard, total)


def _made(pool: ThreadPoolExecutor, producer: Producer, first: int, workers: int) -> Iterator[tuple[int, Outcome]]:
    """Position and sample in order, made by the pool a bounded way ahead."""
    pending: deque[tuple[range, Future[list[Outcome]]]] = deque()
    for start in range(first, len(producer), _BATCH):
        positions = range(start, min(start + _BATCH, len(producer)))
        pending.append((positions, pool.submit(producer.produce, positions)))
        if len(pending) > _BATCHES_AHEAD * workers:
            yield from _result(*pending.popleft())
    while pending:
        yield from _result(*pending.popleft())


def _result(positions: range, future: Future[list[Outcome]]) -> Iterator[tuple[int, Outcome]]:
    return zip(positions, future.result(), strict=True)


class _Shard:
    """The shard that is being filled."""

    def __init__(self, options: WriteOptions) -> None:
        self._options = options
        self._tar = TarBuffer()
        self._keys: set[str] = set()
        self.errors: list[Unpackable] = []

    @property
    def samples(self) -> int:
        return len(self._keys)

    @property
    def size(self) -> int:
        return self._tar.size

    def add(self, sample: NewSample) -> bool:
        """Append the sample, or return False if the shard is full."""
        key = self._free_key(sample)
        blob = members_bytes((f"{key}.{suffix}", data) for suffix, data in sample.members)
        limit = self._options.shard_bytes
        if self.samples == self._options.samples_per_shard:
            return False
        if self.samples and limit is not None and archive_size(self.size + len(blob)) > limit:
            return False
        self._keys.add(key)
        self._tar.add(blob)
        return True

    def leave_out(self, problem: Unpackable) -> None:
        self.errors.append(problem)

    def archive(self) -> bytes:
        return self._tar.finish()

    def report(self) -> bytes:
        """One JSON object a line for every sample that was left out."""
        lines = (
            {"where": problem.where, "reason": problem.reason, "problem": problem.error.problem}
            for problem in self.errors
        )
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "replace")

    def _free_key(self, sample: NewSample) -> str:
        """The sample's key, below its origin if the shard has the key already."""
        key, number = sample.key, 1
        while key in self._keys:
            key = f"{sample.origin}/{sample.key}" if number == 1 else f"{sample.origin}/{number}/{sample.key}"
            number += 1
        return key


class _Committer:
    """Saves shards in the background, and the record behind each, in order.

    Attributes:
        record: as it will be once everything handed over is saved.
    """

    def __init__(self, sink: Source, pool: ThreadPoolExecutor, record: ShardRecord) -> None:
        self._sink, self._pool, self.record = sink, pool, record
        self._pending: deque[tuple[Future[None], ShardRecord]] = deque()
        self._depth = _UPLOADS if sink.remote else 1
        record.save(sink)  # the first thing in an empty directory, so that even a lone shard is known as ours

    def commit(self, shard: _Shard, position: int) -> None:
        """Hand over a shard; the next one starts at `position`."""
        number = self.record.shards
        archive = shard.archive() if shard.samples else b""
        skipped = Counter(problem.reason for problem in shard.errors)
        self.record = self.record.after_shard(position, shard.samples, len(archive), skipped)
        report = shard.report()
        while len(self._pending) >= self._depth:
            self._settle()
        self._pending.append((self._pool.submit(self._save, number, archive, report), self.record))

    def finish(self) -> ShardRecord:
        """Wait for everything."""
        while self._pending:
            self._settle()
        return self.record

    def _save(self, number: int, archive: bytes, report: bytes) -> None:
        name = shard_name(number)
        if report:
            self._sink.save(name.removesuffix(".tar") + ".errors.jsonl", report)
        if archive:
            self._sink.save(name, archive)

    def _settle(self) -> None:
        future, record = self._pending.popleft()
        future.result()
        record.save(self._sink)
