"""The digest of a step: independent of how samples are spread, different for anything else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.train.ledger import sample_digest

IDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=40)
MASK = 2**64 - 1


def digest(ids, position=0):
    return int(sample_digest(np.array(ids, np.uint64), position))


def splitmix64(value):
    """The finaliser, in Python's own integers (Steele, Lea and Flood, OOPSLA 2014, figure 16)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def reference(ids, position):
    total = sum(splitmix64((i + 0x9E3779B97F4A7C15 * (position + 1)) & MASK) for i in ids) & MASK
    return total - 2**64 if total >= 2**63 else total


@given(IDS, st.integers(0, 2**40))
def test_it_is_the_documented_hash(ids, position):
    assert digest(ids, position) == reference(ids, position)


@given(IDS, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(ids, random):
    shuffled = list(ids)
    random.shuffle(shuffled)
    assert digest(shuffled) == digest(ids)


@given(IDS, st.integers(1, 6))
def test_ranks_add_up_to_the_whole(ids, world):
    parts = torch.stack([sample_digest(np.array(ids[rank::world], np.uint64), 7) for rank in range(world)])
    assert int(parts.sum()) == digest(ids, 7)


def test_no_samples_add_nothing():
    assert digest([]) == 0


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20, unique=True), st.data())
def test_one_other_sample_changes_it(ids, data):
    at = data.draw(st.integers(0, len(ids) - 1))
    changed = [*ids[:at], ids[at] + 10**7, *ids[at + 1 :]]
    assert digest(changed) != digest(ids)


def test_a_sample_twice_is_not_the_same_as_two_samples():
    assert digest([1, 1]) != digest([1, 2])
    assert digest([1, 1]) != digest([1])
    assert digest([0]) != digest([])


def test_the_same_samples_in_another_step_have_another_digest():
    assert len({digest([1, 2, 3], position) for position in range(0, 1000, 10)}) == 100


@pytest.mark.parametrize("ids", [[2**63 - 1, 2**63 - 1], [2**64 - 1]])
def test_it_wraps_without_a_warning(ids):
    assert -(2**63) <= digest(ids, 2**40) < 2**63
