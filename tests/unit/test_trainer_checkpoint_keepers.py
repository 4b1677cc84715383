"""Who keeps a copy of whose share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.checkpoint.keepers import keepers, kept_by


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a", [None]),
        ("aa", [None, None]),
        ("ab", [1, 0]),
        ("abc", [1, 2, 0]),
        ("aabb", [2, 3, 0, 1]),
        ("abab", [1, 0, 3, 2]),  # survivors come first, so ranks of a node need not be neighbours
        ("aab", [2, 2, 0]),
    ],
)
def test_the_next_node_keeps_it(nodes, expected):
    assert keepers(nodes) == expected


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=16).filter(lambda nodes: len(set(nodes)) > 1))
def test_the_loss_of_any_node_loses_no_share(nodes):
    found = keepers(nodes)
    for lost in set(nodes):
        left = [rank for rank, node in enumerate(nodes) if node != lost]
        assert {share for rank in left for share in kept_by(rank, found)} == set(range(len(nodes)))


@given(st.integers(2, 6), st.integers(1, 4))
def test_equal_nodes_bear_equal_loads(nodes, workers):
    found = keepers([str(rank // workers) for rank in range(nodes * workers)])
    assert sorted(found) == list(range(nodes * workers))
