"""Virtual lanes: exactly once per epoch, independent of the world, one integer of state."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_trainer.data.order.lanes import SampleOrder
from clipctl.contract.errors import MissingError, SpecError

shard_counts = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@st.composite
def orders(draw):
    counts = draw(shard_counts)
    return SampleOrder(
        counts,
        seed=draw(st.integers(0, 2**63)),
        lanes=draw(st.integers(1, 24)),
        shuffle_block=draw(st.sampled_from([1, 2, 3, 7, 64])),
    ), counts


def everything(counts):
    return Counter((shard, index) for shard, count in enumerate(counts) for index in range(count))


def shown(refs):
    return Counter((ref.shard, ref.index_in_shard) for ref in refs)


@given(case=orders(), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_the_dataset(case, epoch):
    order, counts = case
    refs = order.batch(epoch * order.samples, order.samples)
    assert shown(refs) == everything(counts)
    assert {ref.epoch for ref in refs} == {epoch}
    first_ids = [sum(counts[:shard]) for shard in range(len(counts))]
    assert all(ref.sample_id == first_ids[ref.shard] + ref.index_in_shard for ref in refs)


@given(case=orders(), per_lane=st.integers(1, 4), data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_sample_is_lost_or_repeated_through_kills_and_resizes(case, per_lane, data):
    """Workers join, leave and are killed; only committed batches count."""
    order, counts = case
    batch = order.lanes * per_lane
    position, committed, epochs = 0, [], 2
    while position < epochs * order.samples:
        world = data.draw(st.integers(1, order.lanes), label="world")
        resumed = SampleOrder(counts, seed=order.seed, lanes=order.lanes, shuffle_block=order.shuffle_block)
        steps = data.draw(st.integers(0, 9), label="steps until the kill")
        for _ in range(steps + 1):
            parts = [resumed.local_batch(position, batch, rank, world) for rank in range(world)]
            committed += [ref for part in parts for ref in part]
            position += batch
        # The batch in flight when everything dies is computed but not committed.
        resumed.local_batch(position, batch, 0, world)
    for epoch in range(epochs):
        assert shown(ref for ref in committed if ref.epoch == epoch) == everything(counts)


@given(case=orders(), start=st.integers(0, 500), per_lane=st.integers(1, 5), world=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_a_batch_is_independent_of_the_world(case, start, per_lane, world):
    order, _ = case
    size = order.lanes * per_lane
    batch = order.batch(start * size, size)
    parts = [order.local_batch(start * size, size, rank, world) for rank in range(world)]
    assert parts == [order.rank_slice(batch, rank, world) for rank in range(world)]
    assert Counter(ref for part in parts for ref in part) == Counter(batch)
    assert tuple(len(part) for part in parts) == order.local_counts(start * size, size, world)
    assert {ref.lane % world for ref in parts[0]} <= {0}


@given(case=orders(), start=st.integers(0, 10**12))
@settings(max_examples=40, deadline=None)
def test_every_batch_takes_the_same_number_from_each_lane_in_lane_order(case, start):
    order, _ = case
    batch = order.batch(start, order.lanes * 3)
    assert Counter(ref.lane for ref in batch) == dict.fromkeys(range(order.lanes), 3)
    assert [ref.lane for ref in batch] == sorted(ref.lane for ref in batch)
    assert sorted(ref.position for ref in batch) == list(range(start, start + order.lanes * 3))


@given(case=orders(), position=st.integers(0, 10**13))
@settings(max_examples=40, deadline=None)
def test_any_position_is_found_without_history(case, position):
    order, counts = case
    fresh = SampleOrder(counts, seed=order.seed, lanes=order.lanes, shuffle_block=order.shuffle_block)
    order.batch(0, order.lanes)
    assert order.sample_at(position) == fresh.sample_at(position)
    assert order.sample_at(position).epoch == order.epoch_of(position)


@given(case=orders(), position=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_substitutes_stay_in_lane_and_epoch_and_reach_the_whole_lane(case, position):
    order, _ = case
    ref = order.sample_at(position)
    start = ref.epoch * order.samples
    lane = [r for r in order.batch(start, order.samples) if r.lane == ref.lane]
    substitutes = [order.substitute(ref, attempt) for attempt in range(len(lane))]
    assert substitutes[0] == ref
    assert {r.sample_id for r in substitutes} == {r.sample_id for r in lane}
    beyond = order.substitute(ref, len(lane) + 1)
    assert beyond.sample_id == order.sample_at(position + (len(lane) + 1) * order.lanes).sample_id
    assert beyond[:4] == ref[:4]
    assert (
        {(r.position, r.epoch, r.lane, r.ordinal) for r in substitutes}
        == {ref[:4]}
        == {(ref.position, ref.epoch, ref.lane, ref.ordinal)}
    )


def test_batches_straddle_the_border_of_epochs():
    order = SampleOrder([7], seed=0, lanes=4)
    epochs = Counter(ref.epoch for ref in order.batch(4, 4))
    assert epochs == {0: 3, 1: 1}


def test_epochs_and_seeds_have_orders_of_their_own():
    order = SampleOrder([500, 500], seed=1, lanes=5, shuffle_block=10)
    ids = [[ref.sample_id for ref in order.batch(e * 1000, 1000)] for e in range(2)]
    other = [ref.sample_id for ref in SampleOrder([500, 500], seed=2, lanes=5, shuffle_block=10).batch(0, 1000)]
    assert ids[0] != ids[1]
    assert ids[0] != other


def test_a_lane_reads_neighbouring_samples_of_a_large_dataset():
    """Within a window of the block shuffle a lane touches at most one window of a shard (or two at a border)."""
    order = SampleOrder([1000] * 20, seed=3, lanes=8, shuffle_block=50)
    lane = [ref for ref in order.batch(0, 20000) if ref.lane == 5]
    for first in range(0, len(lane), 50):
        window = lane[first : first + 50]
        spans = {}
        for ref in window:
            spans.setdefault(ref.shard, []).append(ref.index_in_shard)
        assert len(spans) <= 2
        assert sum(max(span) - min(span) + 1 for span in spans.values()) == len(window)
    shards = [ref.shard for ref in lane]
    changes = sum(a != b for a, b in pairwise(shards))
    assert changes < 60, "a lane goes from shard to shard, it does not jump"


def test_a_small_dataset_is_shuffled_as_a_whole():
    order = SampleOrder([100], seed=3, lanes=10, shuffle_block=10)
    pairs = {tuple(sorted(ref.sample_id // 10 for ref in order.batch(k * 10, 10))) for k in range(10)}
    assert any(len(set(tens)) < 10 for tens in pairs), "lanes must not be fixed tenths of the dataset"


def test_the_borders_of_lanes_move_between_epochs_even_with_one_shard():
    order = SampleOrder([4096], seed=9, lanes=8, shuffle_block=16)
    lanes = [frozenset(r.sample_id for r in order.batch(e * 4096, 4096) if r.lane == 0) for e in range(4)]
    assert len(set(lanes)) == 4


def test_the_order_is_frozen():
    # Changing these numbers changes the order of every run that is resumed: do not.
    order = SampleOrder([5, 0, 4, 3], seed=2024, lanes=4, shuffle_block=2)
    assert [ref.sample_id for ref in order.batch(0, 12)] == FROZEN


FROZEN = [7, 6, 8, 1, 0, 2, 3, 4, 9, 10, 11, 5]


def test_progress_counts_epochs():
    order = SampleOrder([10], seed=0, lanes=1)
    assert order.progress(25) == 2.5


def test_an_empty_dataset_is_refused():
    with pytest.raises(MissingError, match="no samples"):
        SampleOrder([0, 0], seed=0, lanes=2)


@pytest.mark.parametrize("bad", [{"lanes": 0}, {"lanes": 2, "shuffle_block": 0}])
def test_impossible_parameters_are_refused(bad):
    with pytest.raises(SpecError):
        SampleOrder([3], seed=0, **bad)


def test_a_lookup_in_a_huge_dataset_needs_no_pass_over_its_samples():
    """100 million samples in 100,000 shards: far positions are found from the shard counts alone."""
    order = SampleOrder([1000] * 100_000, seed=5, lanes=64)
    near, far = order.sample_at(3), order.sample_at(10**12 + 3)
    assert far.epoch == 10**4
    assert near.position == 3
    assert 0 <= far.sample_id < 10**8
