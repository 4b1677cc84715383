"""What every order of samples has in common: one endless stream, cut into lanes that ranks share.

Position `p` of the stream belongs to lane `p mod L`. With `L` dividing the global batch every batch takes the same
number of samples from each lane. Rank `r` of `W` owns the lanes `l = r (mod W)`, for every `W`; counts differ by at
most one lane. Which sample a position shows depends on the order alone, never on ranks or on what was read before: a
rank computes its own part of a batch without knowing the others, and the whole state of a run is its position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipctl.contract.errors import MissingError, SpecError

I64 = npt.NDArray[np.int64]


class SampleRef(NamedTuple):
    """One turn of the stream and the sample it shows."""

    position: int  # place in the endless stream
    epoch: int
    lane: int
    ordinal: int  # turn of the lane within the epoch
    shard: int  # index into the shard list
    index_in_shard: int
    sample_id: int  # global id: samples of all earlier shards plus `index_in_shard`


class Columns(NamedTuple):
    """The fields of many `SampleRef`s, one array each."""

    position: I64
    epoch: I64
    lane: I64
    ordinal: I64
    shard: I64
    index_in_shard: I64
    sample_id: I64


class Order(ABC):
    """An endless, world-independent order of the samples of numbered shards.

    Args:
        counts: samples of each shard.
        seed: seed of the run.
        lanes: number of lanes `L`, fixed for the run's life.
        shuffle_block: neighbouring samples that a lane uses in random order; what a reader should be able to hold.
        epoch: samples of an epoch; None: every sample once.

    Raises:
        MissingError: the data set holds no samples.
        SpecError: lanes or shuffle_block is less than one.
    """

    def __init__(
        self, counts: Sequence[int], *, seed: int, lanes: int, shuffle_block: int, epoch: int | None = None
    ) -> None:
        if lanes < 1 or shuffle_block < 1:
            raise SpecError(f"lanes ({lanes}) and shuffle_block ({shuffle_block}) must be at least 1.")
        self._counts = np.asarray(counts, np.int64)
        self._first_ids = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        total = int(self._first_ids[-1])
        if total == 0:
            raise MissingError("The dataset holds no samples.", hint="Check data.train and its index.json.")
        self.samples = epoch or total
        self.seed, self.lanes, self.shuffle_block = seed, lanes, shuffle_block

    @abstractmethod
    def key(self, ref: SampleRef) -> int:
        """The 64-bit key of everything random about showing a sample: augmentation, choice of caption."""

    @abstractmethod
    def substitute(self, ref: SampleRef, attempt: int) -> SampleRef:
        """The sample shown instead of one that cannot be used: another of the same lane.

        It keeps the position, so counts, ranks and resumption do not change.
        """

    @abstractmethod
    def _lookup(self, positions: I64) -> Columns:
        """What the positions show."""

    def epoch_of(self, position: int) -> int:
        """Epoch in which a position of the stream lies."""
        return position // self.samples

    def progress(self, position: int) -> float:
        """Epochs completed when the stream stands at `position`, as a fraction."""
        return position / self.samples

    def sample_at(self, position: int) -> SampleRef:
        """The sample shown at one position."""
        return self._refs(np.array([position], np.int64))[0]

    def sample_ids(self, position: int, global_batch: int) -> I64:
        """The ids of the samples of positions `[position, position + global_batch)`, by position."""
        return self._lookup(np.arange(position, position + global_batch, dtype=np.int64)).sample_id

    def batch(self, position: int, global_batch: int) -> list[SampleRef]:
        """The samples of positions `[position, position + global_batch)`, ordered by lane, then by position."""
        return self.local_batch(position, global_batch, 0, 1)

    def local_batch(self, position: int, global_batch: int, rank: int, world: int) -> list[SampleRef]:
        """The part of a batch that one rank owns; equal to `rank_slice(batch(...), rank, world)`, but cheaper."""
        positions = np.arange(position, position + global_batch, dtype=np.int64)
        lanes = positions % self.lanes
        mine = lanes % world == rank
        positions, lanes = positions[mine], lanes[mine]
        return self._refs(positions[np.argsort(lanes, kind="stable")])

    def rank_slice(self, batch: Sequence[SampleRef], rank: int, world: int) -> list[SampleRef]:
        """The samples of a batch that lie in the lanes of `rank`, in batch order."""
        return [ref for ref in batch if ref.lane % world == rank]

    def local_counts(self, position: int, global_batch: int, world: int) -> tuple[int, ...]:
        """How many samples of the batch each rank owns; they sum to the global batch."""
        lanes = np.arange(position, position + global_batch, dtype=np.int64) % self.lanes
        counted = np.bincount(lanes % world, minlength=world)
        return tuple(int(count) for count in counted)

    def _refs(self, positions: I64) -> list[SampleRef]:
        columns = (column.tolist() for column in self._lookup(positions))
        return [SampleRef(*row) for row in zip(*columns, strict=True)]
