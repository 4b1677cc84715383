"""Where batches are made: threads that read wait for storage, threads that decode fill the batches' memory."""

from __future__ import annotations

from typing import NamedTuple

from clip_trainer.data.loading.activity import Clock, Slot
from clip_trainer.data.loading.budget import MemoryBudget
from clip_trainer.data.loading.buffers import BatchBuffers
from clip_trainer.data.loading.making import Chunk, Making, Tokenize
from clip_trainer.data.loading.showing import Showing
from clip_trainer.data.loading.threads import Crew
from clip_trainer.data.loading.turns import TurnQueue

_PATIENCE = 10.0  # seconds that closing waits for reads under way: less than a pod is given to end
_FIRST_GUESS = 128 << 10  # bytes of a sample, before one was read


class Ahead(NamedTuple):
    """How many batches may be begun beside the one that is wanted."""

    read: int
    decoded: int


class Workshop:
    """Makes batches in the background, the ones that are wanted first before the others.

    Args:
        showing: reads and shows samples.
        tokenize: captions to token ids.
        buffers: memory of the batches.
        budget: the account of what is in the making.
        ahead: how far to work ahead.
        readers: threads that read.
        decoders: threads that decode.
        clock: seconds, monotonic.

    Attributes:
        slots: what every thread is doing.
    """

    def __init__(
        self,
        showing: Showing,
        tokenize: Tokenize,
        buffers: BatchBuffers,
        budget: MemoryBudget,
        ahead: Ahead,
        *,
        readers: int,
        decoders: int,
        clock: Clock,
    ) -> None:
        self._showing, self._tokenize, self._buffers, self._budget = showing, tokenize, buffers, budget
        self._ahead = ahead
        self._sample_bytes = _FIRST_GUESS
        self._to_read: TurnQueue[Chunk] = TurnQueue()
        self._to_decode: TurnQueue[Chunk] = TurnQueue()
        self._crew = Crew(clock, {self._read_chunks: readers, self._decode_chunks: decoders})
        self.slots = self._crew.slots

    def want(self, turn: int) -> None:
        """Batch number `turn` is wanted next."""
        self._budget.want(turn)
        self._to_decode.open(turn + self._ahead.decoded)
        self._to_read.open(turn + self._ahead.read)

    def start(self, making: Making) -> None:
        """Take in a batch to make; it says itself when it is done."""
        for chunk in making.chunks:
            self._to_read.put(making.turn, chunk)
        if not making.chunks:
            making.complete(self._tokenize, self._buffers.take)

    def close(self, patience: float = _PATIENCE) -> None:
        """Forget all work and end the threads; those that do not end within `patience` seconds are left behind."""
        self._to_read.close()
        self._to_decode.close()
        self._budget.close()
        self._crew.join(patience)

    def _read_chunks(self, slot: Slot) -> None:
        """What a reading thread does."""
        while (chunk := self._to_read.take()) is not None:
            guess = self._sample_bytes * len(chunk.refs)
            if not self._budget.admit(chunk.making.turn, guess):
                return
            try:
                for ref in chunk.refs:
                    slot.begin("read", chunk.making.turn, ref)
                    chunk.samples.append(self._showing.read(ref))
            except BaseException as error:
                chunk.making.fail(error)
            slot.rest()
            chunk.encoded_bytes = sum(len(data) for sample in chunk.samples for data in sample.members.values())
            self._budget.charge(chunk.encoded_bytes - guess)
            if len(chunk.samples) == len(chunk.refs):
                self._sample_bytes = chunk.encoded_bytes // len(chunk.refs)
                self._to_decode.put(chunk.making.turn, chunk)

    def _decode_chunks(self, slot: Slot) -> None:
        """What a decoding thread does. The one that finishes a batch puts it together."""
        while (chunk := self._to_decode.take()) is not None:
            making = chunk.making
            try:
                self._fill(chunk, slot)
                if making.finish(chunk):
                    slot.begin("tokenize", making.turn, making.refs[0])
                    making.complete(self._tokenize, self._buffers.take)
            except BaseException as error:
                making.fail(error)
            slot.rest()

    def _fill(self, chunk: Chunk, slot: Slot) -> None:
        turn = chunk.making.turn
        rows = chunk.making.images(self._buffers.take)[chunk.rows].permute(0, 2, 3, 1).numpy()
        for ref, sample, row in zip(chunk.refs, chunk.samples, rows, strict=True):
            caption, replaced = self._showing.show(turn, ref, sample, row, slot)
            chunk.captions.append(caption)
            chunk.replaced += replaced
        chunk.samples.clear()
        self._budget.charge(-chunk.encoded_bytes)
