"""The shuffle: every number once, decided by the seed, the same for ever."""

import hashlib

import pytest
from xxhash import xxh3_64_intdigest

from clip_trainer.data.writing.shard_order import shuffled


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 5000])
def test_every_number_once(count):
    assert sorted(shuffled(count, 3)) == list(range(count))


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_it_is_the_order_of_the_hashes(seed):
    """The one-line definition, which holds all numbers in memory."""
    naive = sorted(range(3000), key=lambda number: xxh3_64_intdigest(f"{seed}:{number}".encode()))
    assert list(shuffled(3000, seed)) == naive


def test_it_never_changes():
    assert list(shuffled(10, 0)) == [8, 0, 5, 4, 1, 3, 2, 7, 6, 9]
    digest = hashlib.sha256(shuffled(1000, 42).tobytes()).hexdigest()
    assert digest[:16] == "8c083250c72e8a8e"


def test_seeds_differ_and_orders_are_not_the_given_one():
    assert list(shuffled(100, 0)) != list(shuffled(100, 1))
    assert list(shuffled(100, 0)) != list(range(100))


def test_a_number_takes_eight_bytes():
    order = shuffled(100, 0)
    assert (order.itemsize, order.typecode) == (8, "Q")
