"""A verdict names everything that is wrong with a run."""

import json

import pytest

from clip_testkit.eventlogs import opened
from clip_testkit.soak import verdict
from clip_testkit.soak.verdict import Ending, Verdict
from clipctl.contract import layout
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore

BATCH = 8


def step(number, time, incarnation=1, world=2, **changes):
    fields = {"event": "step", "incarnation": incarnation, "step": number, "time": time, "world": world}
    return {**fields, "first": (number - 1) * BATCH, "end": number * BATCH, "digest": number, "loss": 1.0, **changes}


class TestTimes:
    def test_an_undisturbed_run_is_all_good(self):
        events = [step(number, number * 0.5) for number in range(1, 11)]
        assert verdict.times(events, events) == (4.5, 1.0)

    def test_lost_work_and_repairs_are_badput(self):
        first = [step(number, number * 1.0) for number in range(1, 6)]  # ends at 5
        second = [step(number, 10.0 + number - 4, incarnation=2) for number in range(4, 10)]  # 10 ... 15
        seconds, goodput = verdict.times([*first, *second], [*first[:3], *second])
        assert seconds == 14.0
        assert goodput == pytest.approx(8 / 14)

    def test_steps_of_a_smaller_world_do_not_set_the_measure(self):
        both = [step(number, number * 1.0) for number in range(1, 6)]
        alone = [step(number, 5.0 + (number - 5) * 2.0, world=1) for number in range(6, 11)]
        seconds, goodput = verdict.times([*both, *alone], [*both, *alone])
        assert (seconds, goodput) == (14.0, pytest.approx(9 / 14))

    def test_copies_have_no_time_of_their_own(self):
        events = [step(1, 1.0), step(2, 2.0), step(3, 50.0, copy=True)]
        assert verdict.times(events, events)[0] == 1.0

    def test_too_little_to_say(self):
        assert verdict.times([], []) == (0.0, None)
        assert verdict.times([step(1, 1.0)], [step(1, 1.0)]) == (0.0, None)
        apart = [step(1, 1.0), step(2, 3.0, incarnation=2)]
        assert verdict.times(apart, apart) == (2.0, None)


def test_agents_and_processes_that_did_not_end_well():
    assert verdict.ended(Ending({0: 0, 1: 0})) == []
    assert verdict.ended(Ending({1: None, 0: 70}, ["python -m x"])) == [
        "agent 0 ended with exit code 70",
        "agent 1 did not end",
        "a process is left over: python -m x",
    ]


class TestDamage:
    @pytest.fixture
    def store(self, tmp_path):
        store = LocalStore(tmp_path)
        store.write(layout.commit_key(CheckpointId(5, 1)), b"{}")
        return store

    def test_what_nobody_damaged_must_verify(self, store):
        (problem,) = verdict.damage(store, [])
        assert problem.startswith("checkpoint step-00000005.inc-000001 does not verify: ")

    def test_what_was_damaged_on_purpose_need_not(self, store):
        assert verdict.damage(store, ["step-00000005.inc-000001"]) == []

    def test_a_run_has_checkpoints(self, tmp_path):
        assert verdict.damage(LocalStore(tmp_path / "empty"), []) == ["there is no checkpoint"]


def test_everything_comes_together(tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "judge", lambda store, spec, other: ["gap at step 3: lost"])
    store = LocalStore(tmp_path)
    log = opened(store, 1, lambda: 1.0)
    for event in (step(1, 1.0), step(2, 1.5)):
        log.write("step", **json.loads(json.dumps({k: v for k, v in event.items() if k not in ("event", "time")})))
    log.flush()
    found = verdict.decide(store, None, store, [], Ending({0: 1}))
    assert found == Verdict(
        ("gap at step 3: lost", "there is no checkpoint", "agent 0 ended with exit code 1"), 2, 0.0, None
    )
    assert not found.clean
    assert Verdict((), 1, 1.0, None).clean
