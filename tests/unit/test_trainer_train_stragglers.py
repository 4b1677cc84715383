"""Slow ranks: who counts as slow, and when it is told."""

import pytest

from clip_trainer.train.stragglers import WINDOW_STEPS, StragglerWatch, compare, percentile_95


class Peers:
    """A group whose other ranks answer what the test says."""

    def __init__(self, rank, others):
        self.rank, self.others, self.asked = rank, others, 0

    @property
    def world(self):
        return len(self.others) + 1

    def gather_json(self, own):
        self.asked += 1
        return [*self.others[: self.rank], own, *self.others[self.rank :]]


class Told:
    def __init__(self):
        self.events, self.measured = [], []

    def tell(self, event, message, **fields):
        self.events.append((event, message, fields))

    def watch(self, group, ratio=1.5):
        return StragglerWatch(group, ratio, self.tell, self.measured.append)


def run(watch, seconds, first=1, steps=WINDOW_STEPS):
    return [watch.after_step(step, seconds) for step in range(first, first + steps)][-1]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1.0), (2, 2.0), (19, 19.0), (20, 19.0), (21, 20.0), (50, 48.0), (100, 95.0)]
)
def test_the_percentile_is_the_nearest_rank(count, expected):
    values = [float(value) for value in range(count, 0, -1)]
    assert percentile_95(values) == expected


class TestComparing:
    @pytest.mark.parametrize(
        ("p95", "slow"),
        [
            ([1.0, 1.0, 1.0], ()),
            ([1.0, 1.5, 1.0], ()),  # not more than the ratio
            ([1.0, 1.51, 1.0], (1,)),
            ([1.0, 3.0], (1,)),  # of two, the faster one is the measure
            ([3.0, 1.0], (0,)),
            ([1.0, 1.0, 1.0, 5.0, 5.0], (3, 4)),
            ([1.0], ()),
        ],
    )
    def test_ranks_above_the_ratio_are_slow(self, p95, slow):
        assert compare(p95, 1.5).slow == slow

    def test_the_ratio_is_to_the_median_rank(self):
        assert compare([1.0, 2.0, 4.0], 1.5).ratios == (0.5, 1.0, 2.0)

    def test_jitter_of_tiny_steps_is_not_worth_a_word(self):
        assert compare([0.001, 0.015], 1.5).slow == ()
        assert compare([0.001, 0.025], 1.5).slow == (1,)

    def test_steps_that_take_no_time_have_no_ratio(self):
        assert compare([0.0, 0.0, 1.0], 1.5).ratios == (1.0, 1.0, 1.0)


class TestWatching:
    def test_ranks_are_compared_every_so_many_steps(self):
        group, told = Peers(0, [1.0, 1.0]), Told()
        watch = told.watch(group)
        assert [watch.after_step(step, 1.0) is not None for step in range(1, 101)] == (
            [False] * 49 + [True] + [False] * 49 + [True]
        )
        assert group.asked == 2
        assert told.measured == [1.0, 1.0]
        assert told.events == []

    def test_a_slow_rank_is_named_once(self):
        told = Told()
        watch = told.watch(Peers(1, [1.0, 1.0]))
        for first in (1, 51, 101):
            found = run(watch, 2.5, first)
            assert found.slow == (1,)
        assert [event for event, _, _ in told.events] == ["straggler"]
        _, message, fields = told.events[0]
        assert message == "slow steps: rank 1 takes 2.5 s, 2.5 times the median rank; all ranks wait for it"
        assert fields == {"step": 50, "ranks": [1], "p95": [1.0, 2.5, 1.0]}
        assert told.measured == [2.5] * 3

    def test_the_end_is_told_too(self):
        told = Told()
        watch = told.watch(Peers(0, [1.0, 1.0]))
        run(watch, 2.0)
        run(watch, 1.0, first=51)
        assert [message for _, message, _ in told.events][1] == "no rank is slow any more"
        assert told.events[1][2]["ranks"] == []

    def test_one_slow_step_is_no_slow_rank(self):
        told = Told()
        watch = told.watch(Peers(0, [1.0]))
        for step in range(1, WINDOW_STEPS + 1):
            watch.after_step(step, 9.0 if step == 30 else 1.0)
        assert told.events == []

    def test_only_the_last_steps_count(self):
        told = Told()
        watch = told.watch(Peers(0, [1.0, 1.0]))
        run(watch, 1.0)
        assert told.measured == [1.0]
        run(watch, 2.0, first=51)
        assert told.measured == [1.0, 2.0]

    def test_a_rank_alone_asks_nobody(self):
        group, told = Peers(0, []), Told()
        assert run(told.watch(group), 1.0) is None
        assert group.asked == 0

    def test_a_new_group_begins_again(self):
        told = Told()
        watch = told.watch(Peers(0, [1.0, 1.0]))
        run(watch, 2.0, steps=49)
        watch.regrouped()
        assert watch.after_step(50, 1.0).slow == ()
        run(watch, 2.0, first=51)
        watch.regrouped()
        run(watch, 2.0, first=101)
        assert len(told.events) == 2  # the ranks have other numbers now, so it is told again
