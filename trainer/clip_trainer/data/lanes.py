"""The order in which a run sees its samples: virtual lanes.

**What is promised.** (1) Every epoch shows every sample exactly once. (2) A global batch is the same set of samples
whatever the number of workers. (3) The whole state is one integer, `samples_consumed`. (4) Each lane reads its
shards nearly sequentially.

**The stream.** Epochs of `N` samples follow each other without a gap; *position* `p` is the `p`-th sample of the
endless stream, epoch `e = p // N`, place `q = p % N` in the epoch. The batch that starts at position `p` is
`[p, p + B)`; it may straddle the border of two epochs, so no sample is dropped to round an epoch to whole batches.

**Lanes.** `L` lanes are fixed for a run; position `p` belongs to lane `p mod L`. With `L` dividing `B` every batch
takes exactly `B / L` samples from each lane. Inside epoch `e` the lane whose first place is `f` (that is lane
`(e N + f) mod L`, `0 <= f < L`) owns the places `f, f + L, f + 2L, ...`: `n_f = N // L + [f < N mod L]` of them. The
sum of all `n_f` is `N`, so consecutive intervals of these lengths, starting at
`S_f = f (N // L) + min(f, N mod L)`, tile `[0, N)` exactly: the lane reads the interval `[S_f, S_f + n_f)` of the
epoch's concatenated shards, its `o`-th place (`o = (q - f) / L`) using element `S_f + pi(o)`, with `pi` a permutation
of `range(n_f)`. A composition of bijections is a bijection: promise 1.

**Shuffling.** The shards are concatenated in the order of a keyed permutation (see `prp`), and the concatenation is
rotated by a keyed offset, so that neither the borders of lanes nor their contents repeat between epochs. `pi` is a
block shuffle: windows of `shuffle_block` consecutive samples, each permuted by its own key. A window is what a
reader has to hold per lane. When the windows of all lanes cover the dataset anyway (`N <= L * shuffle_block`) the
epoch is one permutation of all `N` samples instead, at the same memory.

**Ranks.** Rank `r` of `W` owns the lanes `l = r (mod W)`, for every `W`; counts differ by at most one lane. A rank
computes its own part of a batch without knowing the others: the order depends on `(seed, L, shuffle_block, shard
counts, p)` alone, which is promise 2, and looking a sample up costs `O(log shards)`, which is promise 3.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clip_trainer.data.prp import derive, derive_key, permute
from clipctl.contract.errors import MissingError, SpecError

I64 = npt.NDArray[np.int64]

_EPOCHS_KEPT = 2


class SampleRef(NamedTuple):
    """One turn of the stream and the sample it shows."""

    position: int  # place in the endless stream
    epoch: int
    lane: int
    ordinal: int  # turn of the lane within the epoch
    shard: int  # index into the shard list
    index_in_shard: int
    sample_id: int  # global id: samples of all earlier shards plus `index_in_shard`


class _Epoch(NamedTuple):
    """What an epoch's lookup needs: the shard permutation, where each shard ends, the rotation and the key."""

    shards: I64
    ends: I64
    rotation: int
    key: int


class SampleOrder:
    """The endless, world-independent order of a dataset's samples.

    Args:
        counts: samples of each shard, in index order.
        seed: seed of the run.
        lanes: number of lanes `L`, fixed for the run's life.
        shuffle_block: window of the block shuffle inside a lane, in samples.

    Raises:
        MissingError: the dataset holds no samples.
        SpecError: lanes or shuffle_block is less than one.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, lanes: int, shuffle_block: int = 256) -> None:
        if lanes < 1 or shuffle_block < 1:
            raise SpecError(f"lanes ({lanes}) and shuffle_block ({shuffle_block}) must be at least 1.")
        self._counts = np.asarray(counts, np.int64)
        self._first_ids = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self.samples = int(self._first_ids[-1])
        if self.samples == 0:
            raise MissingError("The dataset holds no samples.", hint="Check data.train and its index.json.")
        self.seed, self.lanes, self.shuffle_block = seed, lanes, shuffle_block
        self._epochs: dict[int, _Epoch] = {}
        self._lock = threading.Lock()

    def epoch_of(self, position: int) -> int:
        """Epoch in which a position of the stream lies."""
        return position // self.samples

    def progress(self, position: int) -> float:
        """Epochs completed when the stream stands at `position`, as a fraction."""
        return position / self.samples

    def sample_at(self, position: int) -> SampleRef:
        """The sample shown at one position; `O(log shards)` once the epoch's shard order is known."""
        return self._refs(np.array([position], np.int64))[0]

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

    def substitute(self, ref: SampleRef, attempt: int) -> SampleRef:
        """The sample shown instead of one that cannot be used: the `attempt`-th next of the same lane and epoch.

        It keeps the position, so counts, ranks and resumption do not change; the lane's interval is cyclic here.
        """
        first = (ref.lane - ref.epoch * self.samples) % self.lanes
        length = self.samples // self.lanes + (first < self.samples % self.lanes)
        ordinal = (ref.ordinal + attempt) % length
        at = ref.epoch * self.samples + first + ordinal * self.lanes
        return self.sample_at(at)._replace(position=ref.position, ordinal=ref.ordinal)

    def _refs(self, positions: I64) -> list[SampleRef]:
        refs: list[SampleRef | None] = [None] * len(positions)
        epochs = positions // self.samples
        for epoch in np.unique(epochs).tolist():
            where = np.flatnonzero(epochs == epoch)
            columns = self._lookup(epoch, positions[where])
            for slot, row in zip(where.tolist(), zip(*columns, strict=True), strict=True):
                refs[slot] = SampleRef(row[0], epoch, *row[1:])
        return [ref for ref in refs if ref is not None]

    def _lookup(self, epoch: int, positions: I64) -> list[list[int]]:
        """Columns position, lane, ordinal, shard, index, sample id of positions that lie in one epoch."""
        place = positions - epoch * self.samples
        first = place % self.lanes
        ordinal = place // self.lanes
        state = self._epoch(epoch)
        element = self._element(state, first, ordinal)
        rank = np.searchsorted(state.ends, element, side="right")
        shard = state.shards[rank]
        index = element - (state.ends[rank] - self._counts[shard])
        columns = (positions, positions % self.lanes, ordinal, shard, index, self._first_ids[shard] + index)
        return [column.tolist() for column in columns]

    def _element(self, state: _Epoch, first: I64, ordinal: I64) -> I64:
        """Element of the epoch's concatenated shards that each lane (by first place) uses at each of its turns."""
        whole, extra = divmod(self.samples, self.lanes)
        start = first * whole + np.minimum(first, extra)
        if self.samples <= self.lanes * self.shuffle_block:
            return _permuted(start + ordinal, np.full_like(start, self.samples), state.key, start * 0)
        length = whole + (first < extra)
        window = ordinal // self.shuffle_block
        base = window * self.shuffle_block
        sizes = np.minimum(self.shuffle_block, length - base)
        # One key per window: the window's first element names it uniquely within the epoch.
        inside = _permuted(ordinal - base, sizes, state.key, start + base + 1)
        return np.asarray((start + base + inside + state.rotation) % self.samples, np.int64)

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:  # `substitute` is called from the threads of a loader
            return self._epochs.get(epoch) or self._new_epoch(epoch)

    def _new_epoch(self, epoch: int) -> _Epoch:
        key = derive_key(self.seed, epoch)
        shards = len(self._counts)
        order = _permuted(
            np.arange(shards, dtype=np.int64), np.full(shards, shards, np.int64), derive_key(key, 1), None
        )
        rotation = derive_key(key, 2) % self.samples
        state = _Epoch(order, np.cumsum(self._counts[order]), rotation, derive_key(key, 3))
        # A batch touches at most two neighbours of a long epoch; keeping more would only cost memory.
        while len(self._epochs) >= _EPOCHS_KEPT:
            self._epochs.pop(next(iter(self._epochs)), None)
        self._epochs[epoch] = state
        return state


def _permuted(values: I64, sizes: I64, key: int, words: I64 | None) -> I64:
    """`permute` with one key, or with one key per word."""
    keys = np.full(len(values), key, np.uint64)
    if words is not None:
        keys = derive(keys, words.astype(np.uint64))
    return permute(values.astype(np.uint64), sizes.astype(np.uint64), keys).astype(np.int64)
