"""Training batches: the samples of the order, read, decoded, augmented and tokenised by threads.

Decoders, resizing and copies release Python's interpreter lock, so threads scale and nothing is copied between
processes. Threads that read wait for storage; others decode. A batch is cut into chunks of a few samples, whose images
go straight into the batch's memory. What is in the making is bounded by a number of batches and by bytes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from clip_trainer.data.loading.activity import Clock, Stall, StallWatch
from clip_trainer.data.loading.batch import Batch, LoaderCounters
from clip_trainer.data.loading.budget import MemoryBudget
from clip_trainer.data.loading.buffers import BatchBuffers
from clip_trainer.data.loading.making import Making, Tokenize
from clip_trainer.data.loading.showing import Decode, Showing, Steps, Transform
from clip_trainer.data.loading.workshop import Ahead, Workshop
from clip_trainer.data.order.base import Order
from clip_trainer.data.sample_set import ReadHints, SampleSet
from clip_trainer.data.samples.captions import ChooseCaption, any_caption
from clipctl.contract.errors import ClipError, InternalError, SpecError, UnavailableError
from clipctl.contract.failpoints import failpoint

__all__ = ["BatchLoader", "Tokenize"]

_READERS, _READERS_REMOTE = 2, 16
_READ_AHEAD_REMOTE = 4  # encoded samples are small: many times the batches that are decoded ahead
_LOOK_SECONDS = 0.25  # how often a wait is looked at

_log = logging.getLogger(__name__)


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
        memory_bytes: memory for what is in the making: encoded samples, pixels and batches. Too little lowers
            `prefetch_batches`, and at last makes one batch at a time, however large that is.
        undecodable: exceptions that mean "this image is bad"; any other exception ends the iteration.
        choose_caption: which caption of a sample is shown; by default any, all alike.
        pin_memory: hand out page-locked images, for copies to a GPU that do not hold up the host.
        stall_seconds: a wait for data of this length is reported, once.
        timeout: a wait of this length (seconds) is an error; None for never.
        on_stall: told about a stall, in the thread that waits; by default it is logged.
        clock: seconds, monotonic.

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
        choose_caption: ChooseCaption = any_caption,
        pin_memory: bool = False,
        stall_seconds: float = 10.0,
        timeout: float | None = None,
        on_stall: Callable[[Stall], None] = lambda stall: _log.warning("%s", stall),
        clock: Clock = time.monotonic,
    ) -> None:
        _check(order, global_batch, rank, world)
        dataset.require("image", "caption")
        self.counters = LoaderCounters()
        self.position = start_position
        self._order, self._clock = order, clock
        self._global_batch, self._rank, self._world = global_batch, rank, world
        self._next, self._stop = start_position, stop_position
        self._pending: deque[Making] = deque()
        self._started = 0  # batches

        self._budget = MemoryBudget(memory_bytes)
        largest = -(-order.lanes // world) * (global_batch // order.lanes)
        batch_bytes = largest * 3 * image_size[0] * image_size[1]
        decoded = _ahead(prefetch_batches, memory_bytes, batch_bytes)
        ahead = Ahead(decoded * (_READ_AHEAD_REMOTE if dataset.remote else 1), decoded)
        self._begun_ahead = ahead.read
        self._buffers = BatchBuffers(
            largest, image_size, keep=ahead.decoded + 2, pinned=pin_memory, on_bytes=self._budget.charge
        )
        hints = ReadHints(cache_bytes, -(-order.lanes // world), order.shuffle_block)
        self._reader = dataset.open_reader(hints)
        steps = Steps(transform, decode, choose_caption, undecodable)
        self._workshop = Workshop(
            Showing(self._reader, order, steps, dataset.shard_name, self._budget),
            tokenize,
            self._buffers,
            self._budget,
            ahead,
            readers=_READERS_REMOTE if dataset.remote else _READERS,
            decoders=threads,
            clock=clock,
        )
        self._watch = StallWatch(self._workshop.slots, dataset.shard_name, on_stall, clock, stall_seconds, timeout)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises the typed error of whatever failed while making it."""
        started = self._watch.begin()
        self._start_batches()
        if not self._pending:
            raise StopIteration
        batch = self._wait(self._pending[0])
        failpoint("data.hand_over")
        self._pending.popleft()
        batch.wait_seconds = self._clock() - started
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
        self._workshop.close()
        self._pending.clear()
        self._stop = self._next

    def snapshot(self) -> dict[str, Any]:
        """Counters of loader, memory, storage and cache, as one flat dictionary for metrics and events."""
        return {
            **self.counters.snapshot(),
            "stalls": self._watch.stalls,
            "memory_bytes": self._budget.held,
            "memory_peak_bytes": self._budget.peak,
            **self._reader.snapshot(),
        }

    def _start_batches(self) -> None:
        """Hand out the work for the batch that is wanted now and for those after it."""
        if not self._pending and not self._more():
            return
        wanted = self._pending[0].turn if self._pending else self._started
        self._workshop.want(wanted)
        while self._started <= wanted + self._begun_ahead and self._more():
            refs = self._order.local_batch(self._next, self._global_batch, self._rank, self._world)
            counts = self._order.local_counts(self._next, self._global_batch, self._world)
            making = Making(self._started, self._next, refs, counts)
            self._pending.append(making)
            self._started += 1
            self._next += self._global_batch
            self._workshop.start(making)

    def _more(self) -> bool:
        return self._stop is None or self._next + self._global_batch <= self._stop

    def _wait(self, making: Making) -> Batch:
        """The batch, once its threads are done with it."""
        try:
            while not making.done.wait(_LOOK_SECONDS):
                self._watch.look(making.turn, making.first_missing())
        except UnavailableError:
            self._workshop.close(patience=0)  # a thread that hangs would hang us too
            self.close()
            raise
        if making.error is not None:
            self.close()
            raise _typed(making.error)
        return making.take()


def _typed(error: BaseException) -> BaseException:
    """What the consumer sees of a worker's error."""
    if isinstance(error, ClipError) or not isinstance(error, Exception):
        return error
    internal = InternalError(f"A data worker failed: {type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal


def _check(order: Order, global_batch: int, rank: int, world: int) -> None:
    assert 0 <= rank < world, f"rank {rank} of {world}"
    if global_batch % order.lanes:
        raise SpecError(f"The global batch {global_batch} is not a multiple of the {order.lanes} lanes.")
    if world > order.lanes:
        raise SpecError(
            f"{world} workers cannot share {order.lanes} lanes.",
            hint="The number of lanes is fixed when a run is created: set data.lanes for the largest world.",
        )


def _ahead(prefetch_batches: int, memory_bytes: int, batch_bytes: int) -> int:
    """Batches to decode ahead: beside the one in use and the one that is waited for, as many as there is room for."""
    return max(0, min(prefetch_batches, memory_bytes // max(1, batch_bytes) - 2))
