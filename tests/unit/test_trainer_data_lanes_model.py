"""The order against a model that is the definition, sample by sample, in plain integers.

The implementation is vectorised and never makes a list of an epoch; the model makes all lists. They share nothing but
the keyed hash.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_trainer.data.order.lanes import SampleOrder
from clip_trainer.data.order.prp import derive_key

ROUNDS = 8
MASK = 2**64 - 1


def mix64(value):
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def permuted(value, size, key):
    """Feistel network with cycle walking, one integer at a time."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = divmod(value, 1 << half)
        for turn in range(ROUNDS):
            subkey = (key + turn * 0xD1342543DE82EF95) & MASK
            left, right = right, left ^ (mix64(mix64(right) ^ subkey) & ((1 << half) - 1))
        value = (left << half) | right
        if value < size:
            return value


class Model:
    """Lanes as the docstring of `lanes` defines them."""

    def __init__(self, counts, seed, lanes, shuffle_block):
        self.counts, self.seed, self.lanes, self.block = counts, seed, lanes, shuffle_block
        self.samples = sum(counts)

    def epoch(self, epoch):
        """(lane, shard, index) of every place of an epoch."""
        key = derive_key(self.seed, epoch)
        shards = len(self.counts)
        order = [permuted(rank, shards, derive_key(key, 1)) for rank in range(shards)]
        elements = [(shard, index) for shard in order for index in range(self.counts[shard])]
        places = [None] * self.samples
        start = 0
        for first in range(min(self.lanes, self.samples)):
            mine = range(first, self.samples, self.lanes)
            lane = (epoch * self.samples + first) % self.lanes
            for place, element in zip(mine, self.lane_elements(key, start, len(mine)), strict=True):
                places[place] = (lane, *elements[element])
            start += len(mine)
        return places

    def lane_elements(self, key, start, length):
        """Elements of the concatenated shards that a lane uses, in its order."""
        window_key = derive_key(key, 3)
        if self.samples <= self.lanes * self.block:
            whole = derive_word(window_key, 0)
            return [permuted(start + ordinal, self.samples, whole) for ordinal in range(length)]
        rotation = derive_key(key, 2) % self.samples
        elements = []
        for base in range(0, length, self.block):
            size = min(self.block, length - base)
            inside_key = derive_word(window_key, start + base + 1)
            elements += [start + base + permuted(inside, size, inside_key) for inside in range(size)]
        return [(element + rotation) % self.samples for element in elements]


def derive_word(key, word):
    return mix64(key ^ mix64(word))


@given(
    counts=st.lists(st.integers(0, 25), min_size=1, max_size=8).filter(any),
    seed=st.integers(0, 2**64 - 1),
    lanes=st.integers(1, 12),
    shuffle_block=st.sampled_from([1, 2, 5, 16]),
    epoch=st.integers(0, 10**9),
)
@settings(max_examples=60, deadline=None)
def test_the_order_is_the_model(counts, seed, lanes, shuffle_block, epoch):
    model = Model(counts, seed, lanes, shuffle_block)
    order = SampleOrder(counts, seed=seed, lanes=lanes, shuffle_block=shuffle_block)
    refs = order.batch(epoch * order.samples, order.samples)
    by_place = sorted(refs, key=lambda ref: ref.position)
    assert [(ref.lane, ref.shard, ref.index_in_shard) for ref in by_place] == model.epoch(epoch)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257])
def test_the_models_permutation_is_a_bijection(size):
    """The model itself has to be right."""
    assert sorted(permuted(value, size, 12345) for value in range(size)) == list(range(size))
