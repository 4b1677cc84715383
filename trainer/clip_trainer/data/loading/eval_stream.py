"""One pass over a dataset in its stored order, shared between ranks: for zero-shot and retrieval evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import torch

from clip_trainer.data.loading.batch import Replacement
from clip_trainer.data.loading.showing import Decode, Transform
from clip_trainer.data.sample_set import ReadHints, SampleSet
from clip_trainer.data.shards.sample import UnusableSample


@dataclass
class EvalChunk:
    """Some samples of one rank; all lists have one entry per image."""

    images: torch.Tensor  # uint8 [n, 3, H, W]
    captions: list[tuple[str, ...]]  # all captions; empty for a sample that has only a class
    cls: list[int | None]
    sample_ids: list[int]


@dataclass(frozen=True)
class _Shown:
    image: torch.Tensor
    captions: tuple[str, ...]
    cls: int | None
    sample_id: int


class EvalStream:
    """Every `world`-th sample of a dataset, from sample `rank` on.

    Args:
        dataset: opened dataset.
        decode: encoded image to pixels.
        transform: pixels and a key (always 0 here) to uint8 [3, H, W].
        rank: this worker.
        world: number of workers.
        chunk: samples handed out together; the last chunk may be shorter.
        threads: threads that decode.
        limit: look at the first `limit` samples of the dataset only.
        undecodable: exceptions that mean "this image is bad"; such samples are left out and listed in `skipped`.

    Attributes:
        skipped: what was left out so far, and why.
    """

    def __init__(
        self,
        dataset: SampleSet,
        *,
        decode: Decode,
        transform: Transform,
        rank: int = 0,
        world: int = 1,
        chunk: int = 64,
        threads: int = 2,
        limit: int | None = None,
        undecodable: tuple[type[Exception], ...] = (ValueError, OSError),
    ) -> None:
        assert 0 <= rank < world, f"rank {rank} of {world}"
        dataset.require("image")
        self._dataset, self._decode, self._transform = dataset, decode, transform
        self._rank, self._world, self._chunk, self._threads = rank, world, chunk, threads
        samples = sum(dataset.counts)
        self._samples = samples if limit is None else min(limit, samples)
        self._undecodable = undecodable
        self._reader = dataset.open_reader(ReadHints())
        self.skipped: list[Replacement] = []

    def __iter__(self) -> Iterator[EvalChunk]:
        """Yield chunks in order. Raises what reading raises."""
        waiting: deque[Future[_Shown | Replacement]] = deque()
        places = self._places()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="clip-eval") as pool:
            try:
                while True:
                    while len(waiting) < 2 * self._chunk and (place := next(places, None)) is not None:
                        waiting.append(pool.submit(self._show, *place))
                    if not waiting:
                        return
                    results = [waiting.popleft().result() for _ in range(min(self._chunk, len(waiting)))]
                    shown = [result for result in results if isinstance(result, _Shown)]
                    self.skipped += [result for result in results if isinstance(result, Replacement)]
                    if shown:
                        yield _chunk(shown)
            finally:
                pool.shutdown(cancel_futures=True)

    def _places(self) -> Iterator[tuple[int, int, int]]:
        """Shard, index within it and global id of this rank's samples."""
        counts = self._dataset.counts
        for shard, (count, end) in enumerate(zip(counts, accumulate(counts), strict=True)):
            first = end - count
            offset = (self._rank - first) % self._world
            for inside in range(offset, count, self._world):
                if first + inside >= self._samples:
                    return
                yield shard, inside, first + inside

    def _show(self, shard: int, index: int, sample_id: int) -> _Shown | Replacement:
        sample = self._reader.read(shard, index)
        try:
            cls = sample.class_number()
            captions = () if cls is not None and not _has_text(sample.members) else sample.captions()
            image = self._decode(sample.image())
        except UnusableSample as error:
            reason = error.reason
        except self._undecodable as error:
            reason = getattr(error, "reason", "undecodable image")
        else:
            return _Shown(self._transform(image, 0), captions, cls, sample_id)
        return Replacement(sample_id, sample.key, self._dataset.shard_name(shard), reason, None)


def _has_text(members: dict[str, bytes]) -> bool:
    return "txt" in members or "json" in members


def _chunk(shown: list[_Shown]) -> EvalChunk:
    return EvalChunk(
        images=torch.stack([one.image for one in shown]),
        captions=[one.captions for one in shown],
        cls=[one.cls for one in shown],
        sample_ids=[one.sample_id for one in shown],
    )
