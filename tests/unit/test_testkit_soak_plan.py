"""The plan of faults follows from the seed, and a failing one is cut down to what matters."""

import itertools
import statistics

import pytest

from clip_testkit.soak.plan import KINDS, Planned, plan, possible
from clip_testkit.soak.shrink import shrink

ALL = possible({"s3", "folder", "disk", "nodes"})


class TestPlan:
    def test_it_is_a_function_of_the_seed(self):
        assert plan(7, 600, 10, ALL) == plan(7, 600, 10, ALL)
        assert plan(7, 600, 10, ALL) != plan(8, 600, 10, ALL)

    def test_a_longer_plan_begins_like_a_shorter_one(self):
        short = plan(7, 300, 10, ALL)
        assert plan(7, 600, 10, ALL)[: len(short)] == short

    def test_it_is_not_changed_by_accident(self):
        """Recorded seeds must stay what they were."""
        first = plan(1, 60, 10, ["kill_worker", "kill_agent"])[:2]
        assert [(fault.at, fault.kind) for fault in first] == [(1.44, "kill_agent"), (2.09, "kill_worker")]

    def test_faults_come_in_order_within_the_time(self):
        faults = plan(3, 600, 10, ALL)
        assert faults == sorted(faults)
        assert faults[0].at > 0
        assert faults[-1].at < 600

    def test_the_mean_time_between_faults(self):
        faults = plan(5, 100_000, 10, ALL)
        gaps = [b.at - a.at for a, b in itertools.pairwise(faults)]
        assert statistics.mean(gaps) == pytest.approx(10, rel=0.05)
        assert statistics.pstdev(gaps) == pytest.approx(10, rel=0.05)  # exponential: as wide as its mean

    def test_kinds_come_by_weight(self):
        faults = plan(5, 100_000, 10, ["kill_worker", "kill_rank_0"])
        share = sum(fault.kind == "kill_worker" for fault in faults) / len(faults)
        assert share == pytest.approx(5 / 7, abs=0.02)
        assert {fault.kind for fault in plan(5, 100_000, 10, ALL)} == set(ALL)

    @pytest.mark.parametrize("seed", range(20))
    def test_at_least_one_and_never_late(self, seed):
        faults = plan(seed, 10, 1000, ALL)
        assert faults
        assert faults[0].at <= 10

    def test_it_survives_its_record(self):
        for fault in plan(2, 100, 5, ALL):
            assert Planned.from_json(fault.to_json()) == fault


class TestKinds:
    def test_what_a_scene_can_have(self):
        assert "s3_errors" in possible({"s3"})
        assert "s3_errors" not in possible({"folder", "nodes"})
        assert "kill_agent" not in possible({"folder"})
        assert set(possible({"s3", "folder", "disk", "nodes"})) == set(KINDS)

    def test_only_what_is_wanted(self):
        assert possible({"folder"}, ["kill_worker", "s3_slow"]) == ["kill_worker"]

    def test_every_kind_is_explained(self):
        assert [kind.name for kind in KINDS.values() if not kind.text or kind.weight <= 0] == []


class TestShrink:
    def count(self, fails):
        calls = []

        def counted(items):
            calls.append(list(items))
            return fails(items)

        return counted, calls

    @pytest.mark.parametrize("guilty", [{3}, {0}, {19}, {3, 4}, {0, 19}, {2, 9, 17}, set(range(20))])
    def test_exactly_what_is_needed_is_left(self, guilty):
        assert set(shrink(range(20), lambda items: guilty <= set(items), 1000)) == guilty

    def test_the_order_stays(self):
        assert shrink([5, 3, 9, 1], lambda items: {3, 1} <= set(items)) == [3, 1]

    def test_one_fault_needs_no_try(self):
        fails, calls = self.count(lambda items: True)
        assert shrink([1], fails) == [1]
        assert calls == []

    def test_a_single_culprit_takes_few_tries(self):
        fails, calls = self.count(lambda items: 700 in items)
        assert shrink(range(1000), fails) == [700]
        assert len(calls) <= 25

    def test_no_more_tries_than_allowed(self):
        fails, calls = self.count(lambda items: {1, 500, 900} <= set(items))
        left = shrink(range(1000), fails, 7)
        assert len(calls) == 7
        assert {1, 500, 900} <= set(left)

    def test_either_of_two_causes_is_enough(self):
        assert shrink(range(10), lambda items: 2 in items or 7 in items) in ([2], [7])


def test_what_is_stored_elsewhere_does_not_fill_a_disk():
    assert "disk_full" in possible({"folder", "disk"})
    assert "disk_full" not in possible({"s3", "disk"})
