"""Which steps are bad, and when it is enough."""

import json
import math

import pytest

from clip_trainer.train.guard import Guard
from clipctl.contract.sections import GuardSection


def guard_of(**section):
    return Guard(GuardSection(**section))


@pytest.mark.parametrize(
    ("loss", "norm", "problem"),
    [
        (1.0, 2.0, None),
        (1e30, 1e30, None),
        (math.nan, math.nan, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (1.0, math.inf, "the gradient's norm is inf"),
        (1.0, math.nan, "the gradient's norm is nan"),
    ],
)
def test_only_what_is_not_finite_is_bad_by_default(loss, norm, problem):
    assert guard_of().judge(loss, norm) == problem


def test_a_spike_is_measured_against_the_steps_before():
    guard = guard_of(spike_factor=2.0, window=3)
    for loss in (1.0, 50.0, 3.0):  # the window is not full yet
        assert guard.judge(loss, 1.0) is None
    assert guard.judge(36.0, 1.0) is None  # twice the mean of 18 is not more than it
    assert guard.judge(60.0, 1.0) == "the loss is 60, more than 2 times the mean of 29.67 before"
    assert guard.judge(59.0, 1.0) is None  # the spike itself is not in the mean
    assert guard.judge(-1.0, 1.0) is None


def test_counting():
    guard = guard_of(max_skipped=2)
    counts = []
    for loss in (math.nan, 1.0, math.nan, math.nan, math.nan):
        guard.judge(loss, 1.0)
        counts.append((guard.in_a_row, guard.skipped, guard.exhausted))
    assert counts == [(1, 1, False), (0, 1, False), (1, 2, False), (2, 3, False), (3, 4, True)]


def test_without_patience_the_first_bad_step_is_enough():
    guard = guard_of(max_skipped=0)
    assert not guard.exhausted
    guard.judge(math.nan, 1.0)
    assert guard.exhausted


def test_returns_are_limited():
    guard = guard_of(max_rollbacks=1, max_skipped=0)
    guard.judge(math.nan, 1.0)
    assert guard.may_roll_back
    guard.rolled_back(target=40, since=55, rollbacks=1, skipped=1)
    assert not guard.may_roll_back
    assert (guard.exhausted, guard.target, guard.since, guard.skipped) == (False, 40, 55, 1)


def test_state_travels():
    guard = guard_of(spike_factor=2.0, window=2)
    for loss in (1.0, 2.0, math.nan):
        guard.judge(loss, 1.0)
    guard.rolled_back(3, 9, 1, 1)
    guard.judge(math.inf, 1.0)
    other = guard_of(spike_factor=2.0, window=2)
    other.load_json(json.loads(json.dumps(guard.to_json())))
    assert other.to_json() == guard.to_json()
    assert other.judge(3.1, 1.0) == guard.judge(3.1, 1.0)
    assert guard.judge(3.0, 1.0) is None


def test_nothing_is_kept_for_spikes_that_nobody_looks_for():
    guard = guard_of()
    guard.judge(1.0, 1.0)
    assert guard.to_json()["losses"] == []
