"""A sharded state survives in the memory of the ranks that are left, whatever their number afterwards."""

import numpy as np
import pytest

from clip_testkit.memorywork import FULL, find, keep
from clip_testkit.ranks import run_ranks


def folders(tmp_path, count):
    return [str(tmp_path / f"memory-{rank}") for rank in range(count)]


def kept(tmp_path, nodes, steps=(10, 20), room=None):
    (tmp_path / "first").mkdir()
    return run_ranks(len(nodes), tmp_path / "first", keep, folders(tmp_path, len(nodes)), nodes, steps, room)


def found(tmp_path, places):
    (tmp_path / "second").mkdir()
    return run_ranks(len(places), tmp_path / "second", find, places)


def assert_same(answers, before):
    for message, weights, moments in answers:
        assert message["step"] == 20
        for ours, wanted in ((weights, before.weights), (moments, before.moments)):
            assert ours.keys() == wanted.keys()
            for name, array in wanted.items():
                assert np.array_equal(ours[name], array), name


def test_every_share_is_on_two_nodes(tmp_path):
    answers = kept(tmp_path, ["a", "b", "c"])
    assert all(answer.kept == [True, True] for answer in answers)
    assert [answer.has for answer in answers] == [
        [(10, own), (10, kept_), (20, own), (20, kept_)]
        if own < kept_
        else [(10, kept_), (10, own), (20, kept_), (20, own)]
        for own, kept_ in ((0, 2), (1, 0), (2, 1))
    ]


@pytest.mark.parametrize("survivors", [(0, 1, 2), (2, 1, 0), (1, 2), (2, 0), (0, None, 1, 2)])
def test_any_node_may_be_lost_and_others_may_come(tmp_path, survivors):
    before = kept(tmp_path, ["a", "b", "c"])[0]
    memory = folders(tmp_path, 3)
    answers = found(tmp_path, [None if rank is None else memory[rank] for rank in survivors])
    assert_same(answers, before)


def test_one_rank_alone_gets_the_whole_state_of_two(tmp_path):
    before = kept(tmp_path, ["a", "b"])[0]
    assert_same(found(tmp_path, folders(tmp_path, 2)[1:]), before)


def test_with_two_neighbours_lost_a_share_is_gone(tmp_path):
    kept(tmp_path, ["a", "b", "c"])
    assert found(tmp_path, [folders(tmp_path, 3)[0], None]) == [None, None]


def test_a_node_alone_keeps_its_shares_for_its_own_processes(tmp_path):
    answers = kept(tmp_path, ["a", "a"])
    assert [answer.has for answer in answers] == [[(10, 0), (20, 0)], [(10, 1), (20, 1)]]
    assert_same(found(tmp_path, folders(tmp_path, 2)), answers[0])


def test_only_two_snapshots_take_room(tmp_path):
    answers = kept(tmp_path, ["a", "b"], steps=(5, 10, 15, 20))
    assert answers[0].has == [(15, 0), (15, 1), (20, 0), (20, 1)]


def test_memory_that_fills_up_later_ends_them_for_all(tmp_path):
    """The last whole snapshot stays, and nothing else does."""
    answers = kept(tmp_path, ["a", "b"], steps=(5, FULL, 15))
    for answer in answers:
        assert (answer.kept, answer.shortage) == (
            [True, False, False],
            "a node's /dev/shm has become too full for them",
        )
        assert answer.has == [(5, 0), (5, 1)]
    assert not [*tmp_path.glob("memory-*/*.staged"), *tmp_path.glob("memory-*/retired-*")]


def test_a_node_without_room_is_named_and_nobody_keeps_anything(tmp_path):
    answers = kept(tmp_path, ["a", "b"], room=1000)
    for answer in answers:
        assert (answer.kept, answer.has) == ([False, False], [])
        assert answer.shortage.startswith("node a needs ")
        assert answer.shortage.endswith(" MiB of /dev/shm for them and has 0 MiB")
