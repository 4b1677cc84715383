"""Which checkpoints stay: every rule by itself, together, and the promise of two intact ones for any of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl.contract.layout import CheckpointId
from clipctl.contract.retention import MINIMUM_VERIFIED, Candidate, KeepPolicy, by_loss, expendable, kept


def ids(*steps, incarnation=1):
    return [CheckpointId(step, incarnation) for step in steps]


def candidates(*steps, losses=None):
    return [Candidate(c, (losses or {}).get(c.step)) for c in ids(*steps)]


def gone(policy, found, verified=None, latest=None):
    every = [c.id for c in found]
    return [c.step for c in expendable(policy, found, every if verified is None else verified, latest)]


class TestRules:
    def test_the_newest(self):
        assert gone(KeepPolicy(last=2), candidates(10, 20, 30, 40)) == [10, 20]
        assert gone(KeepPolicy(last=9), candidates(10, 20, 30, 40)) == []

    def test_every_so_many_steps(self):
        found = candidates(0, 50, 100, 150, 200, 250, 260)
        assert gone(KeepPolicy(last=2, every=100), found) == [50, 150]

    def test_the_best(self):
        found = candidates(1, 2, 3, 4, 5, losses={1: 3.0, 2: 0.5, 3: math.nan, 4: 2.0, 5: 2.5})
        assert gone(KeepPolicy(last=2, best=1), found) == [1, 3]
        assert gone(KeepPolicy(last=2, best=4), found) == [3]

    def test_where_latest_points(self):
        """After a roll-back the newest commit is not the one with the highest step."""
        found = candidates(10, 20, 30, 40)
        assert gone(KeepPolicy(last=2), found, latest=CheckpointId(20, 1)) == [10]
        assert gone(KeepPolicy(last=2), found, latest=CheckpointId(25, 1)) == [10, 20]

    def test_the_order_given_does_not_matter(self):
        found = candidates(30, 10, 40, 20)
        assert gone(KeepPolicy(last=2), found) == [10, 20]

    def test_a_later_incarnation_of_a_step_is_the_newer_one(self):
        found = [Candidate(CheckpointId(10, inc)) for inc in (2, 1, 3)]
        assert expendable(KeepPolicy(last=2), found, [c.id for c in found]) == ids(10)


class TestTwoIntactOnesStay:
    def test_nothing_goes_while_fewer_than_two_are_known_to_be_intact(self):
        found = candidates(10, 20, 30, 40)
        for verified in ([], ids(40), ids(10), [CheckpointId(99, 1), CheckpointId(40, 1)]):
            assert gone(KeepPolicy(last=2), found, verified) == []

    def test_damaged_ones_among_the_newest_are_replaced_by_intact_older_ones(self):
        found = candidates(10, 20, 30, 40, 50)
        assert gone(KeepPolicy(last=2), found, ids(10, 20, 30)) == [10]
        assert gone(KeepPolicy(last=2), found, ids(10, 20, 50)) == [10, 30]

    @given(
        steps=st.sets(st.integers(0, 300), max_size=12),
        policy=st.builds(KeepPolicy, st.integers(2, 6), st.none() | st.integers(1, 120), st.integers(0, 4)),
        data=st.data(),
    )
    def test_for_any_policy(self, steps, policy, data):
        losses = {step: data.draw(st.floats() | st.none()) for step in steps}
        found = candidates(*sorted(steps), losses=losses)
        verified = data.draw(st.sets(st.sampled_from(ids(*sorted(steps))))) if steps else set()
        latest = data.draw(st.sampled_from([None, *ids(*sorted(steps))]))
        going = expendable(policy, found, verified, latest)
        staying = {c.id for c in found} - set(going)
        assert going == sorted(set(going))
        if going:
            assert len(staying & verified) >= MINIMUM_VERIFIED
            assert kept(policy, found, latest) <= staying
            assert set(ids(*sorted(steps))[-policy.last :]) <= staying
            assert latest is None or latest in staying


def test_the_lowest_loss_first_and_the_newer_of_equals():
    found = candidates(1, 2, 3, 4, losses={1: 2.0, 2: 2.0, 3: 1.0, 4: math.inf})
    assert [c.step for c in by_loss(found)] == [3, 2, 1]
    assert by_loss([]) == []


@pytest.mark.parametrize("best", [0, 5])
def test_runs_without_losses_are_kept_by_the_other_rules(best):
    assert gone(KeepPolicy(last=2, best=best), candidates(1, 2, 3)) == [1]
