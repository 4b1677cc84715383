"""The keyed permutation is a bijection, depends on its key, and never changes between versions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_trainer.data.order.prp import derive, derive_key, mix64, permute


def images(size: int, key: int) -> list[int]:
    values = np.arange(size, dtype=np.uint64)
    return permute(values, np.full(size, size, np.uint64), np.full(size, key, np.uint64)).tolist()


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_every_size_and_key_gives_a_bijection(size, key):
    assert sorted(images(size, key)) == list(range(size))


@given(
    domains=st.lists(st.tuples(st.integers(1, 2**52 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=40),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_elements_are_independent_of_their_neighbours_in_the_array(domains, data):
    sizes = np.array([size for size, _ in domains], np.uint64)
    keys = np.array([key for _, key in domains], np.uint64)
    values = np.array([data.draw(st.integers(0, size - 1)) for size, _ in domains], np.uint64)
    together = permute(values, sizes, keys)
    alone = [permute(values[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0] for i in range(len(domains))]
    assert together.tolist() == [int(one) for one in alone]
    assert (together < sizes).all()


def test_a_permutation_is_no_identity_and_differs_by_key():
    assert images(1000, 1) != list(range(1000))
    assert images(1000, 1) != images(1000, 2)


def test_small_domains_reach_every_arrangement():
    seen = {tuple(images(3, derive_key(7, k))) for k in range(200)}
    assert len(seen) == 6


def test_first_places_are_spread_evenly():
    # 4000 keys, 10 places: 400 expected each, standard deviation 19.
    keys = np.array([derive_key(3, k) for k in range(4000)], np.uint64)
    firsts = np.bincount(
        permute(keys * np.uint64(0), keys * np.uint64(0) + np.uint64(10), keys).astype(int), minlength=10
    )
    assert firsts.min() > 300
    assert firsts.max() < 500


def test_mix64_is_splitmix64():
    # First output of the reference implementation for the state 1234567 (Vigna, splitmix64.c).
    assert int(mix64(np.array([1234567], np.uint64))[0]) == 6457827717110365317


def test_derived_keys_depend_on_every_word_and_its_place():
    keys = {derive_key(*words) for words in [(0, 0), (0, 1), (1, 0), (1, 1), (0,), (0, 0, 0), (-1, 0)]}
    assert len(keys) == 7


@given(words=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=5))
@settings(max_examples=50, deadline=None)
def test_keys_of_integers_and_of_arrays_agree(words):
    key = np.zeros(1, np.uint64)
    for word in words:
        key = derive(key, np.array([word % 2**64], np.uint64))
    assert derive_key(*words) == int(key[0])


def test_permutation_is_frozen():
    # Changing these numbers changes the order of every run that is resumed: do not.
    assert images(10, 42) == FROZEN_10
    assert derive_key(1, 2, 3) == FROZEN_KEY


FROZEN_10 = [1, 4, 2, 9, 3, 6, 7, 5, 8, 0]
FROZEN_KEY = 9812528628958509896


def test_long_arrays_are_permuted_as_short_ones_are():
    """They are worked on piece by piece, which must not show."""
    size = 3 * 2**14 + 5
    found = images(size, 11)
    assert sorted(found) == list(range(size))
    values = np.array([0, 2**14 - 1, 2**14, 2**15, size - 1], np.uint64)
    alone = permute(values, np.full(5, size, np.uint64), np.full(5, 11, np.uint64))
    assert alone.tolist() == [found[value] for value in values.tolist()]
    assert permute(values[:0], values[:0], values[:0]).tolist() == []
