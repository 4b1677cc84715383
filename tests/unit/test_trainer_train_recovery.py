"""What a change of the group has cost: which rung of the ladder it was, and where the time went."""

from types import SimpleNamespace

import pytest

from clip_testkit.clock import FakeClock
from clip_testkit.eventlogs import opened
from clip_trainer.train.events import read_events
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.recovery import Recovery
from clip_trainer.train.state import TrainState
from clip_trainer.train.synchronise import OWN, PEER, STORAGE
from clipctl.contract.store_local import LocalStore


@pytest.fixture
def clock():
    return FakeClock(50.0)


@pytest.fixture
def run(tmp_path):
    store = LocalStore(tmp_path)
    return SimpleNamespace(
        spec=SimpleNamespace(name="demo"),
        state=TrainState(step=7),
        group=SimpleNamespace(world=2, gather_json=lambda own: [None, own]),
        metrics=TrainerMetrics(),
        events=opened(store, 1, lambda: 1.0),
        store=store,
    )


def recover(recovery, clock, run, *, lost, origin, before=("a", "b"), after=("a", "c")):
    """One change of the group, each phase twice as long as the one before, from a quarter of a second on."""
    recovery.members = before
    recovery.begin(lost=lost)
    for seconds, phase in ((0.25, "leave"), (0.5, "form"), (1.0, "synchronise")):
        clock.advance(seconds)
        recovery.phase(phase)
        if phase == "form":
            recovery.entered(after, 2)
    recovery.share(run.group, origin)
    clock.advance(2.0)
    recovery.stepped(run, 2)
    run.events.flush()
    return [event for event in read_events(run.store) if event["event"] == "regrouped"]


def test_the_event_says_what_happened_and_what_it_cost(clock, run):
    [event] = recover(Recovery(clock), clock, run, lost=True, origin=OWN)
    assert (event["rung"], event["step"], event["world"], event["generation"]) == ("regroup", 7, 2, 2)
    assert event["seconds"] == 3.75
    assert event["phases"] == {"leave": 0.25, "form": 0.5, "synchronise": 1.0, "step": 2.0}
    assert (event["joined"], event["lost"]) == (["c"], ["b"])
    assert event["message"] == "demo: regroup in 3.75 s at step 7, 2 ranks; lost b, joined c"


@pytest.mark.parametrize(
    ("lost", "origin", "after", "rung"),
    [
        (True, OWN, ("a",), "regroup"),
        (True, PEER, ("a", "c"), "regroup"),
        (False, OWN, ("a",), "shrink"),
        (False, OWN, ("a", "b", "c"), "grow"),
        (True, STORAGE, ("a", "c"), "restart"),
        (False, STORAGE, ("a", "b"), "restart"),
    ],
)
def test_the_rung_follows_from_what_was_lost_and_where_the_state_came_from(clock, run, lost, origin, after, rung):
    [event] = recover(Recovery(clock), clock, run, lost=lost, origin=origin, after=after)
    assert event["rung"] == rung
    assert run.state.recoveries == {rung: 1}
    assert run.state.lost_seconds == {rung: 3.75}
    samples = run.metrics.registry
    assert samples.get_sample_value("clip_train_recoveries_total", {"rung": rung}) == 1
    assert samples.get_sample_value("clip_train_recovery_seconds_sum", {"rung": rung}) == 3.75
    assert samples.get_sample_value("clip_train_recovery_phase_seconds", {"phase": "form"}) == 0.5


def test_a_newcomer_counts_what_the_others_have_measured(clock, run):
    """It may be the next rank 0, whose counts are those of the run."""
    told = {"rung": "grow", "last": 1, "seconds": 0.5, "phases": {"form": 0.25}, "joined": ["c"], "lost": []}
    run.group.gather_json = lambda own: [{**told, "seconds": 0.25}, own, told]
    newcomer = Recovery(clock)
    newcomer.entered(("a", "b", "c"), 2)
    newcomer.share(run.group, PEER)
    clock.advance(0.25)
    newcomer.stepped(run, 2)
    run.events.flush()
    [event] = read_events(run.store)
    assert {name: event[name] for name in ("rung", "joined", "lost")} == {"rung": "grow", "joined": ["c"], "lost": []}
    assert (event["seconds"], event["phases"]) == (0.75, {"form": 0.25, "step": 0.25})
    assert (run.state.recoveries, run.state.lost_seconds) == ({"grow": 1}, {"grow": 0.75})
    assert run.metrics.registry.get_sample_value("clip_train_recoveries_total", {"rung": "grow"}) is None


def test_whoever_was_cut_off_counts_what_the_others_have_measured(clock, run):
    """Its own absence is not the group's, which has trained meanwhile."""
    told = {"rung": "grow", "last": 2, "seconds": 0.5, "phases": {"form": 0.25}, "joined": ["c"], "lost": []}
    run.group.gather_json = lambda own: [told, own]
    recovery = Recovery(clock)
    recovery.entered(("a", "b", "c"), 1)
    recovery.begin(lost=True)
    clock.advance(100.0)
    recovery.phase("form")
    recovery.entered(("a", "b", "c"), 3)
    recovery.share(run.group, PEER)
    recovery.stepped(run, 3)
    assert (run.state.recoveries, run.state.lost_seconds) == ({"grow": 1}, {"grow": 0.5})


def test_the_first_group_of_a_process_is_no_recovery(clock, run):
    recovery = Recovery(clock)
    recovery.entered(("a",), 1)
    recovery.phase("form")
    recovery.share(run.group, STORAGE)
    recovery.stepped(run, 1)
    run.events.flush()
    assert list(read_events(run.store)) == []
    assert run.state.recoveries == {}


def test_only_the_first_step_counts(clock, run):
    recovery = Recovery(clock)
    assert len(recover(recovery, clock, run, lost=True, origin=OWN)) == 1
    clock.advance(9.0)
    recovery.stepped(run, 2)
    run.events.flush()
    assert len(list(read_events(run.store))) == 1


def test_a_group_that_breaks_before_its_first_step_is_part_of_the_same_recovery(clock, run):
    recovery = Recovery(clock)
    recovery.members = ("a", "b", "c")
    recovery.begin(lost=False)
    clock.advance(1.0)
    recovery.phase("form")
    recovery.entered(("a", "b"), 2)
    recovery.begin(lost=True)
    clock.advance(1.0)
    recovery.phase("form")
    recovery.entered(("a",), 3)
    recovery.share(run.group, OWN)
    recovery.stepped(run, 3)
    run.events.flush()
    [event] = read_events(run.store)
    assert (event["rung"], event["seconds"]) == ("regroup", 2.0)
    assert event["phases"]["form"] == 2.0
    assert event["lost"] == ["b", "c"]
