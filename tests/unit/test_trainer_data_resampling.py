"""Drawing with replacement: exact probabilities, and all that lanes promise."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.order.pools import Pools, WeightedSource, pools_of
from clip_trainer.data.order.resampling import ResampledOrder
from clipctl.contract.errors import MissingError, SpecError

COUNTS = [100, 100, 100, 40, 40, 40, 40, 5]
SOURCES = [WeightedSource(3, 1.0), WeightedSource(5, 2.0)]


def order_of(counts=COUNTS, sources=SOURCES, weight_by="sample", **options):
    options = {"seed": 1, "lanes": 8, "shuffle_block": 16, **options}
    return ResampledOrder(counts, pools_of(counts, sources, weight_by), **options)


def probabilities(counts, sources, weight_by):
    """Of every sample, from the words of the reference."""
    owners = [number for number, source in enumerate(sources) for _ in range(source.shards)]
    weights = [sources[owner].weight for owner in owners]
    sizes = [sum(count for count, owner in zip(counts, owners, strict=True) if owner == n) for n in range(len(sources))]
    by = {
        "sample": lambda shard: weights[shard],
        "shard": lambda shard: weights[shard] / counts[shard],
        "source": lambda shard: weights[shard] / sizes[owners[shard]],
    }[weight_by]
    found = np.concatenate([np.full(count, by(shard) if count else 0.0) for shard, count in enumerate(counts)])
    return found / found.sum()


def chi_square(observed, expected):
    """The statistic in standard deviations from its mean (it is nearly normal with many classes)."""
    freedom = len(observed) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("weight_by", ["sample", "shard", "source"])
def test_every_sample_has_the_probability_that_the_weights_say(weight_by):
    """One draw a window, at the window's first turn, of far apart lanes: nearly independent."""
    order = order_of(weight_by=weight_by, lanes=8, shuffle_block=16)
    assert order.window == 16
    windows, draws = 40_000, []
    for lane in range(8):
        first = -(lane * 16 // 8) % 16  # ordinal at which this lane's windows begin
        positions = (first + 16 * np.arange(windows // 8)) * 8 + lane
        draws.append(order._lookup(positions).sample_id)
    observed = np.bincount(np.concatenate(draws), minlength=sum(COUNTS))
    expected = probabilities(COUNTS, SOURCES, weight_by) * windows
    assert abs(chi_square(observed, expected)) < 4


@pytest.mark.parametrize("weight_by", ["sample", "shard", "source"])
def test_draws_of_single_samples_too(weight_by):
    """A data set that fits into the windows is drawn sample by sample."""
    order = order_of(weight_by=weight_by, shuffle_block=1024)
    assert order.window == 1
    observed = np.bincount(order.sample_ids(0, 80_000), minlength=sum(COUNTS))
    assert abs(chi_square(observed, probabilities(COUNTS, SOURCES, weight_by) * 80_000)) < 4


def test_all_turns_together_keep_the_shares():
    ids = order_of(weight_by="source").sample_ids(10**9, 160_000)
    assert (ids >= 300).mean() == pytest.approx(2 / 3, abs=0.003)


@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_an_only_source_may_have_any_weight(weight):
    plain = order_of(sources=[WeightedSource(8, 1.0)]).sample_ids(0, 1000)
    assert order_of(sources=[WeightedSource(8, weight)]).sample_ids(0, 1000).tolist() == plain.tolist()


def test_shares_of_one_round_are_off_by_one_window_at_most():
    order = order_of(lanes=64, shuffle_block=2, weight_by="source")
    for turn in range(50):
        lanes = np.arange(64, dtype=np.int64)
        rounds = np.full(64, turn, np.uint64)
        assert abs(int((order._draw(rounds, lanes) == 1).sum()) - 64 * 2 / 3) <= 1


def test_a_lane_reads_neighbours():
    counts = [1000] * 20
    order = order_of(counts, [WeightedSource(20, 1.0)], lanes=4, shuffle_block=256)
    turns = order.sample_ids(0, 4 * 256 * 30)[::4].tolist()
    for number in range(30):
        window = set(turns[256 * number : 256 * (number + 1)])
        assert len(window) == 256, "no sample twice in a window"
        assert max(window) - min(window) == 255 or {0, 19_999} <= window, "but for the wrap at the end"
    assert turns[:256] != sorted(turns[:256])


def test_lanes_do_not_begin_their_windows_together():
    order = order_of([1000] * 20, [WeightedSource(20, 1.0)], lanes=4, shuffle_block=64)
    borders = []
    for lane in range(4):
        ids = order._lookup(np.arange(64 * 40, dtype=np.int64) * 4 + lane).sample_id
        jumps = np.flatnonzero(np.abs(np.diff(ids)) > 64) + 1
        borders.append(Counter((jumps % 64).tolist()).most_common(1)[0][0])
    assert borders == [0, 48, 32, 16]


def test_windows_are_no_longer_than_what_is_drawn():
    assert order_of([10] * 100, [WeightedSource(100, 1.0)], "shard", lanes=2, shuffle_block=64).window == 10
    assert order_of([10] * 100, [WeightedSource(100, 1.0)], "sample", lanes=2, shuffle_block=64).window == 64


@st.composite
def orders(draw):
    counts = draw(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any))
    cut = draw(st.integers(0, len(counts)))
    sources = [WeightedSource(cut, draw(st.floats(0.01, 10))), WeightedSource(len(counts) - cut, 1.0)]
    return (
        order_of(
            counts,
            sources,
            draw(st.sampled_from(["sample", "shard", "source"])),
            seed=draw(st.integers(0, 2**63)),
            lanes=draw(st.integers(1, 12)),
            shuffle_block=draw(st.sampled_from([1, 2, 7, 64])),
            epoch=draw(st.none() | st.integers(1, 100)),
        ),
        counts,
    )


@given(case=orders(), start=st.integers(0, 10**12), per_lane=st.integers(1, 5), world=st.integers(1, 15))
def test_a_batch_is_independent_of_the_world(case, start, per_lane, world):
    order, counts = case
    size = order.lanes * per_lane
    batch = order.batch(start * size, size)
    parts = [order.local_batch(start * size, size, rank, world) for rank in range(world)]
    assert parts == [order.rank_slice(batch, rank, world) for rank in range(world)]
    assert Counter(ref for part in parts for ref in part) == Counter(batch)
    assert tuple(len(part) for part in parts) == order.local_counts(start * size, size, world)
    assert all(ref.lane == ref.position % order.lanes for ref in batch)
    first_ids = [sum(counts[:shard]) for shard in range(len(counts))]
    assert all(ref.sample_id == first_ids[ref.shard] + ref.index_in_shard for ref in batch)
    assert all(ref.index_in_shard < counts[ref.shard] for ref in batch)
    assert sorted(order.sample_ids(start * size, size)) == sorted(ref.sample_id for ref in batch)


@given(case=orders(), position=st.integers(0, 10**12))
def test_any_position_is_found_without_history(case, position):
    order, _ = case
    assert order.sample_at(position) == order.batch(position, 1)[0]
    assert order.sample_at(position).epoch == order.epoch_of(position) == position // order.samples


@given(case=orders(), position=st.integers(0, 10**6), attempt=st.integers(1, 64))
def test_substitutes_stay_in_their_lane_and_turn(case, position, attempt):
    order, _ = case
    ref = order.sample_at(position)
    other = order.substitute(ref, attempt)
    kept = (other.position, other.lane, other.epoch, other.ordinal)
    assert kept == (ref.position, ref.lane, ref.epoch, ref.ordinal)
    assert other.sample_id == order.sample_at(position + attempt * order.lanes).sample_id


def test_a_sample_that_comes_twice_is_not_augmented_twice_alike():
    order = order_of([1], [WeightedSource(1, 1.0)])
    first, second = order.batch(0, 8)[:2]
    assert first.sample_id == second.sample_id
    assert order.key(first) != order.key(second)


def test_an_epoch_is_a_number_of_samples():
    assert order_of().samples == sum(COUNTS)
    order = order_of(epoch=1000)
    assert (order.samples, order.progress(2500), order.epoch_of(2500)) == (1000, 2.5, 2)


def test_seeds_have_streams_of_their_own():
    assert order_of(seed=1).sample_ids(0, 100).tolist() != order_of(seed=2).sample_ids(0, 100).tolist()


def test_the_order_is_frozen():
    """A change would make every checkpoint of a resampled run unusable."""
    ids = {by: order_of(weight_by=by).sample_ids(12_345, 8).tolist() for by in ("sample", "shard", "source")}
    assert ids == {
        "sample": [222, 168, 284, 345, 373, 344, 382, 331],
        "shard": [331, 159, 302, 441, 461, 393, 407, 355],
        "source": [222, 168, 458, 345, 373, 344, 382, 331],
    }


def test_pools():
    by_source = pools_of([3, 0, 5, 2], [WeightedSource(3, 1.0), WeightedSource(1, 3.0)], "source")
    assert [column.tolist() for column in by_source] == [[0, 8], [8, 2], [0.25, 0.75]]
    by_sample = pools_of([3, 0, 5, 2], [WeightedSource(3, 1.0), WeightedSource(1, 3.0)], "sample")
    assert by_sample.shares.tolist() == [8 / 14, 6 / 14]
    by_shard = pools_of([3, 0, 5, 2], [WeightedSource(3, 1.0), WeightedSource(1, 3.0)], "shard")
    assert [column.tolist() for column in by_shard] == [[0, 3, 8], [3, 5, 2], [0.2, 0.2, 0.6]]


def test_what_cannot_be_drawn_from():
    nothing = Pools(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64)))
    with pytest.raises(MissingError):
        ResampledOrder([0, 0], nothing, seed=0, lanes=1)
    with pytest.raises(SpecError):
        order_of(lanes=0)


def test_a_lookup_in_a_huge_data_set_needs_no_pass_over_its_samples():
    counts = [10**9] * 1000
    order = order_of(counts, [WeightedSource(400, 1.0), WeightedSource(600, 2.0)], lanes=64, shuffle_block=1024)
    assert 0 <= order.sample_at(10**15).sample_id < 10**12
