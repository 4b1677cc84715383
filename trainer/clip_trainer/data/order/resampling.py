"""The order of a run that draws its samples with replacement (`data.resample`).

**What is promised.** (1) Every turn shows each sample with exactly the probability that the weights say (up to the 53
bits of a float). (2) As in `lanes`, a batch does not depend on the number of workers, and the whole state is one
integer. (3) A lane reads neighbours. An epoch is only a number of samples: the stream knows no borders.

**Pools.** What is drawn first is a *pool*, a run of consecutive samples: a source or a shard (see `pools_of`). All
samples of a pool are equally probable.

**Windows.** The turns of a lane are cut into windows of `shuffle_block` turns. A window draws a pool and a start in it;
its turns use the samples that follow the start, in a permuted order; at the pool's end it goes on at the beginning. As
every start is equally probable, so is every sample of the pool. A window is what a reader has to hold per lane, and
windows of different lanes begin at different times, so that not all lanes ask the storage for something new at once.
A window is never longer than the mean pool, because it would only repeat itself; and if the windows of all lanes could
hold the whole data set, each turn is a draw of its own, at the same memory.

**Even shares.** The windows that the lanes draw in one round are one systematic sample: one uniform number shifts a
comb with a tooth for every lane, and a keyed permutation gives the teeth to the lanes. For a single lane that is a
uniform number as any other; over the lanes the pools' shares are never off by more than one window, where independent
draws would be off by the square root of their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clip_trainer.data.order.base import I64, Columns, Order, SampleRef
from clip_trainer.data.order.pools import Pools
from clip_trainer.data.order.prp import U64, derive, derive_key, permute

_SHIFT, _TEETH, _START, _INSIDE = 1, 2, 3, 4  # what the key of a round is used for


class ResampledOrder(Order):
    """The endless, world-independent order of samples that are drawn with replacement.

    Args:
        counts: samples of each shard, in index order.
        pools: what is drawn, and with which probabilities.
        seed: seed of the run.
        lanes: number of lanes, fixed for the run's life.
        shuffle_block: samples of a window, at most.
        epoch: samples of an epoch; None: as many as there are.

    Raises:
        MissingError: the data set holds no samples.
        SpecError: lanes or shuffle_block is less than one.
    """

    def __init__(
        self,
        counts: Sequence[int],
        pools: Pools,
        *,
        seed: int,
        lanes: int,
        shuffle_block: int = 256,
        epoch: int | None = None,
    ) -> None:
        super().__init__(counts, seed=seed, lanes=lanes, shuffle_block=shuffle_block, epoch=epoch)
        self._pools = pools
        self._borders = np.cumsum(pools.shares)
        self._last = int(np.flatnonzero(pools.shares)[-1])
        total = int(self._first_ids[-1])
        drawn = pools.lengths[pools.shares > 0]
        self.window = 1 if total <= lanes * shuffle_block else min(shuffle_block, max(1, int(drawn.mean())))
        self._key = derive_key(seed)

    def key(self, ref: SampleRef) -> int:
        """See `Order`: a sample may come twice in a batch, so it is the position that names its turn."""
        return derive_key(self.seed, ref.position, ref.sample_id)

    def substitute(self, ref: SampleRef, attempt: int) -> SampleRef:
        """See `Order`: the sample of the lane's `attempt`-th next turn."""
        found = self.sample_at(ref.position + attempt * self.lanes)
        return found._replace(position=ref.position, epoch=ref.epoch, ordinal=ref.ordinal)

    def _lookup(self, positions: I64) -> Columns:
        """`O(log shards)` a position."""
        epoch, lane = positions // self.samples, positions % self.lanes
        ordinal = positions // self.lanes
        turn = ordinal + lane * self.window // self.lanes  # lanes begin their windows one after the other
        round_ = turn // self.window
        keys = derive(np.full(len(positions), self._key, np.uint64), round_.astype(np.uint64))
        pool = self._draw(keys, lane)
        start = _uniform(_keyed(keys, _START, lane), self._pools.lengths[pool])
        sizes = np.full_like(turn, self.window)
        inside = _permuted(turn - round_ * self.window, sizes, _keyed(keys, _INSIDE, lane))
        sample = self._pools.starts[pool] + (start + inside) % self._pools.lengths[pool]
        shard = np.searchsorted(self._first_ids, sample, side="right") - 1
        return Columns(positions, epoch, lane, ordinal, shard, sample - self._first_ids[shard], sample)

    def _draw(self, keys: U64, lane: I64) -> I64:
        """The pool that each lane draws in the round of its key: one tooth of the round's comb."""
        tooth = _permuted(lane, np.full_like(lane, self.lanes), derive(keys, np.full_like(keys, _TEETH)))
        shift = _unit(derive(keys, np.full_like(keys, _SHIFT)))
        drawn = np.searchsorted(self._borders, (tooth + shift) / self.lanes, side="right")
        return np.minimum(drawn, self._last)  # the borders' rounding may leave the last one a hair below 1


def _keyed(keys: U64, purpose: int, lane: I64) -> U64:
    return derive(derive(keys, np.full_like(keys, purpose)), lane.astype(np.uint64))


def _unit(keys: U64) -> npt.NDArray[np.float64]:
    """A number of [0, 1) from each key."""
    return np.asarray((keys >> np.uint64(11)) * 2.0**-53, np.float64)


def _uniform(keys: U64, sizes: I64) -> I64:
    """An integer of `range(size)` from each key."""
    return np.minimum((_unit(keys) * sizes).astype(np.int64), sizes - 1)


def _permuted(values: I64, sizes: I64, keys: U64) -> I64:
    return permute(values.astype(np.uint64), sizes.astype(np.uint64), keys).astype(np.int64)
