"""Training batches: the samples of the order, read, decoded, augmented and tokenised by threads.

Decoders, resizing and tensor copies release Python's interpreter lock, so threads scale and nothing is copied between
processes. A batch is cut into chunks of a few samples; chunks write straight into the batch's tensors. A bounded
number of batches is in the making, so memory is bounded too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clip_trainer.data.batch import Batch, LoaderCounters, Replacement
from clip_trainer.data.order import Order, SampleRef
from clip_trainer.data.prp import derive_key
from clip_trainer.data.sample import RawSample, UnusableSample
from clip_trainer.data.samples import ReadHints, SampleSet
from clipctl.contract.errors import ClipError, CorruptError, InternalError, SpecError

Image = npt.NDArray[np.uint8]
Transform = Callable[[Image, int], torch.Tensor]
"""Augments: uint8 [h, w, 3] and a 64-bit key to uint8 [3, H, W]. The key alone decides every random choice."""

Decode = Callable[[bytes], Image]
Tokenize = Callable[[list[str]], npt.NDArray[np.int64]]

_CHUNK = 8  # samples; small enough to balance threads, large enough to hide the cost of a task
_MAX_SUBSTITUTES = 64
_READERS_REMOTE = 8  # threads that wait for remote storage beside those that decode

# What a key of the order is used for; two uses of one key would correlate augmentation with caption choice.
_AUGMENT, _CAPTION = 1, 2


class _Pending:
    """A batch in the making."""

    def __init__(self, position: int, refs: Sequence[SampleRef], images: torch.Tensor) -> None:
        self.position = position
        self.refs = refs
        self.images = images
        self.chunks: list[Future[_Chunk]] = []


_Chunk = tuple[npt.NDArray[np.int64], list[Replacement]]


class BatchLoader:
    """Iterates over this rank's parts of the global batches, from a position of the stream on.

    Args:
        dataset: opened dataset; every shard must have images and captions.
        order: the order of the run (its seed keys the augmentation too).
        transform: see `Transform`.
        decode: encoded image to pixels; what it cannot decode raises one of `undecodable`.
        tokenize: captions to token ids, padded with 0, all of one context length.
        image_size: height and width that `transform` produces.
        global_batch: samples of a step over all ranks; a multiple of the order's lanes.
        rank: this worker.
        world: number of workers.
        start_position: `samples_consumed` of the run.
        stop_position: where iteration ends; None for never. A batch that would pass it is not produced.
        threads: threads that decode.
        prefetch_batches: batches in the making beside the one in use.
        cache_bytes: memory for blocks of remote shards.
        memory_bytes: upper bound for the images of batches in the making; lowers prefetch_batches, not below 1.
        undecodable: exceptions that mean "this image is bad"; any other exception ends the iteration.

    Raises:
        SpecError: global batch and lanes do not fit.
        CorruptError: a shard has no images or captions at all.
    """

    def __init__(
        self,
        dataset: SampleSet,
        order: Order,
        *,
        transform: Transform,
        decode: Decode,
        tokenize: Tokenize,
        image_size: tuple[int, int],
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        start_position: int = 0,
        stop_position: int | None = None,
        threads: int = 2,
        prefetch_batches: int = 2,
        cache_bytes: int = 512 << 20,
        memory_bytes: int = 2 << 30,
        undecodable: tuple[type[Exception], ...] = (ValueError, OSError),
    ) -> None:
        _check(order, global_batch, rank, world)
        dataset.require("image", "caption")
        self.counters = LoaderCounters()
        self.position = start_position
        self._dataset, self._order = dataset, order
        self._transform, self._decode, self._tokenize = transform, decode, tokenize
        self._undecodable = undecodable
        self._shape = (3, *image_size)
        self._global_batch, self._rank, self._world = global_batch, rank, world
        self._submitted, self._stop = start_position, stop_position
        own_batch = global_batch // world + global_batch // order.lanes
        self._depth = 1 + _depth(prefetch_batches, memory_bytes, own_batch * int(np.prod(self._shape)))
        windows = -(-order.lanes // world)
        self._reader = dataset.open_reader(ReadHints(cache_bytes, windows, order.shuffle_block))
        self._pending: deque[_Pending] = deque()
        workers = threads + (_READERS_REMOTE if dataset.remote else 0)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clip-data")

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises the typed error of whatever failed while making it."""
        started = time.monotonic()
        while len(self._pending) < self._depth and self._more():
            self._submit()
        if not self._pending:
            raise StopIteration
        batch = self._finish(self._pending.popleft(), started)
        self.position = batch.position_end
        self.counters.add(samples=len(batch.sample_ids), wait_seconds=batch.wait_seconds, replaced=batch.replaced)
        return batch

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all threads and forget the batches in the making; may be called twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._stop = self._submitted

    def snapshot(self) -> dict[str, Any]:
        """Counters of loader, storage and cache, as one flat dictionary for metrics and events."""
        return {**self.counters.snapshot(), **self._reader.snapshot()}

    def _more(self) -> bool:
        return self._stop is None or self._submitted + self._global_batch <= self._stop

    def _submit(self) -> None:
        refs = self._order.local_batch(self._submitted, self._global_batch, self._rank, self._world)
        pending = _Pending(self._submitted, refs, torch.empty((len(refs), *self._shape), dtype=torch.uint8))
        for first in range(0, len(refs), _CHUNK):
            rows = pending.images[first : first + _CHUNK]
            pending.chunks.append(self._pool.submit(self._make_chunk, refs[first : first + _CHUNK], rows))
        self._pending.append(pending)
        self._submitted += self._global_batch

    def _finish(self, pending: _Pending, started: float) -> Batch:
        """Wait for a batch's chunks and put it together."""
        try:
            chunks = [chunk.result() for chunk in pending.chunks]
        except BaseException as error:
            self.close()
            if isinstance(error, ClipError) or not isinstance(error, Exception):
                raise
            raise InternalError(f"A data worker failed: {type(error).__name__}: {error}") from error
        tokens = np.concatenate([chunk[0] for chunk in chunks]) if chunks else self._tokenize([])
        return Batch(
            images=pending.images,
            tokens=torch.from_numpy(tokens),
            text_max_len=_longest(tokens),
            sample_ids=np.array([ref.sample_id for ref in pending.refs], np.uint64),
            position_start=pending.position,
            position_end=pending.position + self._global_batch,
            counts=self._order.local_counts(pending.position, self._global_batch, self._world),
            replaced=tuple(item for chunk in chunks for item in chunk[1]),
            wait_seconds=time.monotonic() - started,
        )

    def _make_chunk(self, refs: Sequence[SampleRef], rows: torch.Tensor) -> _Chunk:
        captions: list[str] = []
        replaced: list[Replacement] = []
        for ref, row in zip(refs, rows, strict=True):
            captions.append(self._make_sample(ref, row, replaced))
        return self._tokenize(captions), replaced

    def _make_sample(self, ref: SampleRef, row: torch.Tensor, replaced: list[Replacement]) -> str:
        """Fill one row with a turn's image and return its caption; a bad sample is replaced within its lane."""
        failures: list[Replacement] = []
        for attempt in range(_MAX_SUBSTITUTES):
            used = ref if attempt == 0 else self._order.substitute(ref, attempt)
            sample = self._reader.read(used.shard, used.index_in_shard)
            try:
                caption = self._show(used, sample, row)
            except UnusableSample as error:
                shard = self._dataset.shard_name(used.shard)
                failures.append(Replacement(used.sample_id, sample.key, shard, error.reason, None))
                continue
            replaced.extend(failure._replace(used_id=used.sample_id) for failure in failures)
            return caption
        first = failures[0]
        raise CorruptError(
            f"{len(failures)} samples in a row cannot be used, from {first.key!r} of shard {first.shard} on "
            f"({first.reason}).",
            hint="Check that the shards hold images and captions: `clipctl data verify --deep`.",
        )

    def _show(self, ref: SampleRef, sample: RawSample, row: torch.Tensor) -> str:
        captions = sample.captions()
        encoded = sample.image()
        try:
            image = self._decode(encoded)
        except self._undecodable as error:
            raise UnusableSample(getattr(error, "reason", "undecodable image")) from error
        key = self._order.key(ref)
        row.copy_(self._transform(image, derive_key(key, _AUGMENT)))
        return captions[derive_key(key, _CAPTION) % len(captions)]


def _check(order: Order, global_batch: int, rank: int, world: int) -> None:
    assert 0 <= rank < world, f"rank {rank} of {world}"
    if global_batch % order.lanes:
        raise SpecError(f"The global batch {global_batch} is not a multiple of the {order.lanes} lanes.")
    if world > order.lanes:
        raise SpecError(
            f"{world} workers cannot share {order.lanes} lanes.",
            hint="The number of lanes is fixed when a run is created: set data.lanes for the largest world.",
        )


def _depth(prefetch_batches: int, memory_bytes: int, batch_bytes: int) -> int:
    """Batches to have in the making beside the one that is waited for."""
    return max(0, min(prefetch_batches, memory_bytes // max(1, batch_bytes) - 1))


def _longest(tokens: npt.NDArray[np.int64]) -> int:
    used = np.flatnonzero((tokens != 0).any(axis=0))
    return int(used[-1]) + 1 if used.size else 0
