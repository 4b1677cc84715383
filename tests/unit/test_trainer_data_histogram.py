from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.check.histogram import doubling, histogram

numbers = st.lists(st.integers(0, 5000), min_size=1, max_size=60)


def test_numbers_fall_into_half_open_bins():
    found = histogram(Counter([0, 9, 10, 19, 20, 500]), (0, 10, 20))
    assert found.starts == (0, 10, 20)
    assert found.counts == (2, 2, 2)


def test_empty_bins_at_the_ends_are_left_out_but_not_those_between():
    found = histogram(Counter([15, 45]), (0, 10, 20, 30, 40, 50, 60))
    assert (found.starts, found.counts) == ((10, 20, 30, 40), (1, 0, 0, 1))


def test_what_is_below_the_first_edge_counts_as_being_in_the_first_bin():
    assert histogram(Counter([-3, 1]), (0, 10)).counts == (2,)


def test_figures():
    found = histogram(Counter({1: 10, 2: 9, 100: 1}), (0,))
    assert (found.total, found.minimum, found.maximum) == (20, 1, 100)
    assert (found.median, found.p95) == (1, 2)
    assert found.mean == pytest.approx((10 + 18 + 100) / 20)


def test_no_numbers():
    found = histogram(Counter(), (0, 1))
    assert (found.starts, found.counts, found.total, found.mean) == ((), (), 0, 0)


@given(numbers)
def test_nothing_is_lost_and_quantiles_are_numbers_of_the_data(values):
    found = histogram(Counter(values), doubling(max(values)))
    assert sum(found.counts) == found.total == len(values)
    ordered = sorted(values)
    assert found.median == ordered[(len(values) - 1) // 2]
    assert found.p95 == ordered[-(-95 * len(values) // 100) - 1]
    assert found.counts[0]
    assert found.counts[-1]


@given(numbers, st.integers(1, 64))
def test_doubling_edges_reach_as_far_as_needed_and_no_further(values, first):
    edges = doubling(max(values), first)
    assert edges[:2] == (0, first)
    assert all(high == 2 * low for low, high in pairwise(edges[1:]))
    assert edges[-1] <= max(max(values), first)
    assert edges[-1] * 2 > max(values)
