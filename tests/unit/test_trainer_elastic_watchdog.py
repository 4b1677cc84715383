import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.elastic.beacon import PHASES, Reading
from clip_trainer.elastic.watchdog import HealthLimits, Watch, judge, judge_start

LIMITS = HealthLimits()
ALIVE = Reading(
    "compute", since=100.0, changed=100.0, waiting=False, heartbeat=100.0, step=7, rank=1, longest=0.2, steps=3
)


def silent(seconds, **changes):
    """Judge a worker whose heartbeat is `seconds` old."""
    return judge(replace(ALIVE, changed=100.0 + seconds, **changes), 100.0 + seconds, LIMITS)


def still(seconds, **changes):
    """Judge a worker that beats, but whose main thread has given no sign of life for `seconds`."""
    return judge(replace(ALIVE, heartbeat=100.0 + seconds, **changes), 100.0 + seconds, LIMITS)


def test_worker_at_work_is_well():
    assert judge(ALIVE, 101.0, LIMITS) is None


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "start"])
def test_old_heartbeat_is_a_hang_in_every_phase(phase):
    assert silent(10.0, phase=phase) is None
    found = silent(10.1, phase=phase)
    assert found is not None
    assert str(found) == f"no heartbeat for 10.1 s in {phase} at step 7"


def test_old_heartbeat_is_a_hang_though_it_says_that_it_waits_for_peers():
    assert silent(10.1, waiting=True).doing == "collective"


def test_imports_may_hold_up_the_heartbeat_for_a_minute():
    assert silent(59.0, phase="start") is None
    assert silent(61.0, phase="start").sign == "no heartbeat"


@pytest.mark.parametrize("state", ["D", "t", "Z", "X"])
def test_process_that_cannot_run_is_not_judged(state):
    assert judge(ALIVE, 500.0, LIMITS, state) is None


@pytest.mark.parametrize("state", ["S", "R", "T"])
def test_stopped_process_is_judged_like_any_other(state):
    assert judge(ALIVE, 500.0, LIMITS, state) is not None


@pytest.mark.parametrize(("longest", "limit"), [(0.01, 10.0), (0.5, 10.0), (2.0, 40.0), (60.0, 1200.0)])
def test_step_may_take_many_times_the_longest_one(longest, limit):
    assert still(limit - 0.1, longest=longest) is None
    assert still(limit + 0.1, longest=longest).sign == "no progress"


@pytest.mark.parametrize(("longest", "steps"), [(0.0, 0), (0.2, 0), (0.2, 2)])
def test_first_steps_may_compile_and_import(longest, steps):
    assert still(899, longest=longest, steps=steps) is None
    assert still(901, longest=longest, steps=steps) is not None


def test_slow_first_step_makes_room_for_slow_steps():
    assert still(1999, longest=100.0, steps=1) is None


@pytest.mark.parametrize(
    ("phase", "limit"), [("start", 900), ("data", 600), ("save", 1800), ("evaluate", 3600), ("finish", 1800)]
)
def test_every_other_phase_has_its_limit(phase, limit):
    assert still(limit - 1, phase=phase) is None
    assert str(still(limit + 1, phase=phase)) == f"no progress for {limit + 1:.1f} s in {phase} at step 7"


@pytest.mark.parametrize("seconds", [11.0, 1e4, 1e6])
def test_waiting_for_others_is_never_a_hang(seconds):
    assert still(seconds, waiting=True) is None
    assert still(seconds, phase="idle") is None


def test_limit_of_run_yaml_counts():
    limits = HealthLimits(hang_seconds=120.0)
    assert judge(ALIVE, 219.0, limits) is None
    assert judge(ALIVE, 221.0, limits) is not None
    assert judge(replace(ALIVE, phase="start", heartbeat=50.0), 160.0, limits) is None


def test_step_before_the_first_is_not_named():
    assert "step" not in str(silent(70.0, phase="start", step=-1))


def test_worker_that_never_shows_a_beacon():
    assert judge_start(100.0, 999.0, LIMITS) is None
    assert str(judge_start(100.0, 1001.0, LIMITS)) == "no beacon for 901.0 s in start"


@given(st.sampled_from(PHASES), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e3), st.booleans())
def test_fresh_signs_are_never_a_hang_and_age_only_makes_it_worse(phase, silence, stillness, longest, waiting):
    reading = Reading(phase, 0.0, -stillness, waiting, -silence, longest=longest)
    found = judge(reading, 0.0, LIMITS)
    if silence <= 10 and stillness <= 10:
        assert found is None
    later = judge(reading, 1000.0, LIMITS)
    assert found is None or later is not None
    assert LIMITS.duration(reading) == math.inf or stillness <= LIMITS.duration(reading) or found is not None


# over time


def looks(watch, times, reading=ALIVE, state="S"):
    return [watch.look(reading, now, state) for now in times]


def test_verdict_is_given_at_the_second_look():
    watch = Watch(LIMITS, started=109.5)
    first, second = looks(watch, (110.5, 111.0))
    assert first is None
    assert second.seconds == 11.0


def test_suspicion_that_is_not_confirmed_is_dropped():
    watch = Watch(LIMITS, started=110.0)
    assert watch.look(ALIVE, 110.5) is None
    assert watch.look(replace(ALIVE, heartbeat=110.9, changed=110.9), 111.0) is None
    assert watch.look(ALIVE, 111.5) is None


def test_agent_that_was_suspended_itself_does_not_judge_at_once():
    watch = Watch(LIMITS, started=100.0)
    assert looks(watch, (101.0, 500.0, 500.5, 501.0, 504.9)) == [None] * 5


def test_worker_that_stays_silent_after_the_suspension_is_judged():
    watch = Watch(LIMITS, started=100.0)
    looks(watch, (101.0, 500.0))
    found = looks(watch, (501.0, 502.5, 504.0, 505.5, 506.0))
    assert found[:4] == [None] * 4
    assert found[4].sign == "no heartbeat"


def test_worker_without_a_beacon_is_watched_from_its_start():
    watch = Watch(replace(LIMITS, start_seconds=3.0), started=100.0)
    assert looks(watch, (101.0, 102.0, 103.0, 103.5), None) == [None] * 4
    assert watch.look(None, 104.0).sign == "no beacon"
