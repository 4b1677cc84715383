"""Batches in the making: cut into chunks, which threads read and fill in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from clip_trainer.data.loading.batch import Batch, Replacement, caption_lengths
from clip_trainer.data.order.base import SampleRef
from clip_trainer.data.shards.sample import RawSample
from clipctl.contract.failpoints import failpoint

Tokenize = Callable[[list[str]], npt.NDArray[np.int64]]

CHUNK = 8
"""Samples that a thread takes at a time: few enough to balance threads, enough to hide the cost of a handover."""


class Making:
    """A batch until it is complete.

    Args:
        turn: its number, counted by the loader.
        position: of the stream, where the global batch starts.
        refs: whose turn it is.
        counts: samples of every rank in the global batch.

    Attributes:
        done: set when `batch` or `error` is there.
    """

    def __init__(self, turn: int, position: int, refs: Sequence[SampleRef], counts: tuple[int, ...]) -> None:
        self.turn, self.position, self.refs, self.counts = turn, position, refs, counts
        self.chunks = [Chunk(self, first) for first in range(0, len(refs), CHUNK)]
        self.done = threading.Event()
        self.batch: Batch | None = None
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._missing = len(self.chunks)
        self._images: torch.Tensor | None = None

    def images(self, take: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """The batch's images, uint8 [n, 3, H, W]; `take` is called by the first chunk that needs them."""
        with self._lock:
            if self._images is None:
                self._images = take(len(self.refs))
            return self._images

    def finish(self, chunk: Chunk) -> bool:
        """A chunk is complete; True if it was the last one."""
        with self._lock:
            chunk.finished = True
            self._missing -= 1
            return self._missing == 0

    def complete(self, tokenize: Tokenize, take: Callable[[int], torch.Tensor]) -> None:
        """Put the batch together, once all chunks are finished."""
        failpoint("data.put_together")
        tokens = tokenize([caption for chunk in self.chunks for caption in chunk.captions])
        lengths = caption_lengths(tokens)
        self.batch = Batch(
            images=self.images(take),
            tokens=torch.from_numpy(tokens),
            text_lengths=torch.from_numpy(lengths),
            text_max_len=int(lengths.max(initial=0)),
            sample_ids=np.array([ref.sample_id for ref in self.refs], np.uint64),
            position_start=self.position,
            position_end=self.position + sum(self.counts),
            counts=self.counts,
            replaced=tuple(item for chunk in self.chunks for item in chunk.replaced),
            wait_seconds=0.0,
        )
        self._images = None
        self.done.set()

    def take(self) -> Batch:
        """The complete batch, once. Nothing here holds on to its memory any more, nor waits for garbage collection."""
        batch, self.batch = self.batch, None
        self.chunks.clear()
        assert batch is not None, "taken before it was complete, or twice"
        return batch

    def fail(self, error: BaseException) -> None:
        """The batch cannot be made; the first reason counts."""
        with self._lock:
            self.error = self.error or error
        self.done.set()

    def first_missing(self) -> SampleRef:
        """A sample of the first chunk that is not complete; of the last one if all are."""
        missing = next((chunk for chunk in self.chunks if not chunk.finished), self.chunks[-1])
        return missing.refs[0]


class Chunk:
    """Some neighbouring samples of a batch.

    Attributes:
        samples: what was read, in the order of `refs`.
        encoded_bytes: of them, as accounted for.
        captions, replaced: what showing them gave.
    """

    def __init__(self, making: Making, first: int) -> None:
        self.making = making
        self.rows = slice(first, first + CHUNK)
        self.refs = making.refs[self.rows]
        self.samples: list[RawSample] = []
        self.encoded_bytes = 0
        self.captions: list[str] = []
        self.replaced: list[Replacement] = []
        self.finished = False
