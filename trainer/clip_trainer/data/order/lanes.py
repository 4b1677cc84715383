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

**Ranks.** How ranks share lanes is `order`'s: the stream depends on `(seed, L, shuffle_block, shard counts, p)` alone,
which is promise 2, and looking a sample up costs `O(log shards)`, which is promise 3.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clip_trainer.data.order.base import I64, Columns, Order, SampleRef
from clip_trainer.data.order.prp import derive, derive_key, permute

_EPOCHS_KEPT = 2


class _Epoch(NamedTuple):
    """What an epoch's lookup needs: the shard permutation, where each shard ends, the rotation and the key."""

    shards: I64
    ends: I64
    rotation: int
    key: int


class SampleOrder(Order):
    """The endless, world-independent order of a dataset's samples; every epoch has each one once.

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
        super().__init__(counts, seed=seed, lanes=lanes, shuffle_block=shuffle_block)
        self._epochs: dict[int, _Epoch] = {}
        self._lock = threading.Lock()

    def key(self, ref: SampleRef) -> int:
        """See `Order`: a sample comes once an epoch, so epoch and id name its turn."""
        return derive_key(self.seed, ref.epoch, ref.sample_id)

    def substitute(self, ref: SampleRef, attempt: int) -> SampleRef:
        """See `Order`: the `attempt`-th next of the same lane and epoch; the lane's interval is cyclic here.

        When a whole interval is of no use, which only happens in tiny data sets, the lane's later epochs are tried.
        """
        first = (ref.lane - ref.epoch * self.samples) % self.lanes
        length = self.samples // self.lanes + (first < self.samples % self.lanes)
        if attempt < length:
            at = ref.epoch * self.samples + first + (ref.ordinal + attempt) % length * self.lanes
        else:
            at = ref.position + attempt * self.lanes
        return self.sample_at(at)._replace(position=ref.position, epoch=ref.epoch, ordinal=ref.ordinal)

    def _lookup(self, positions: I64) -> Columns:
        """`O(log shards)` a position, once the epoch's shard order is known."""
        found = np.empty((len(Columns._fields), len(positions)), np.int64)
        epochs = positions // self.samples
        for epoch in sorted(set(epochs.tolist())):  # numpy's unique takes 50 ms to import what it needs
            where = np.flatnonzero(epochs == epoch)
            found[:, where] = self._lookup_in(epoch, positions[where])
        return Columns(*found)

    def _lookup_in(self, epoch: int, positions: I64) -> Columns:
        """What positions show that lie in one epoch."""
        place = positions - epoch * self.samples
        first = place % self.lanes
        ordinal = place // self.lanes
        state = self._epoch(epoch)
        element = self._element(state, first, ordinal)
        rank = np.searchsorted(state.ends, element, side="right")
        shard = state.shards[rank]
        index = element - (state.ends[rank] - self._counts[shard])
        epochs, lanes = np.full_like(positions, epoch), positions % self.lanes
        return Columns(positions, epochs, lanes, ordinal, shard, index, self._first_ids[shard] + index)

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
