"""The history checker must find every kind of fault; a checker that is always content proves nothing."""

import json

import pytest

from clip_testkit import history
from clip_testkit.eventlogs import opened
from clip_testkit.history import DIGEST, DUPLICATE, FORK, GAP, LOSS, REORDERED
from clip_trainer.data.order.lanes import SampleOrder
from clipctl.contract.store_local import LocalStore

BATCH = 8
ORDER = SampleOrder([20, 13, 7], seed=3, lanes=4, shuffle_block=5)
EXPECTED = history.expected_digests(ORDER, BATCH, 60)


def step_event(step, incarnation, **changes):
    fields = {
        "event": "step",
        "incarnation": incarnation,
        "step": step,
        "first": (step - 1) * BATCH,
        "end": step * BATCH,
        "digest": EXPECTED[step],
        "loss": 4.0 / step,
    }
    return {**fields, **changes}


def started(step, incarnation, **changes):
    base = {"event": "started", "incarnation": incarnation, "step": step, "samples_consumed": step * BATCH}
    return {**base, **changes}


def checkpoint(step, incarnation):
    return {"event": "checkpoint", "incarnation": incarnation, "checkpoint": f"step-{step:08d}.inc-{incarnation:06d}"}


def rejected(step, incarnation, by):
    return {**checkpoint(step, incarnation), "event": "checkpoint_rejected", "incarnation": by}


def life(incarnation, begin, end, every=5):
    """One incarnation that starts after step `begin`, saves every few steps and dies after step `end`."""
    events = [started(begin, incarnation)]
    for step in range(begin + 1, end + 1):
        events.append(step_event(step, incarnation))
        if step % every == 0:
            events.append(checkpoint(step, incarnation))
    return events


def kinds(events, total=None, committed=()):
    return {fault.kind for fault in history.check(events, total, committed)}


GOOD = {
    "undisturbed": life(1, 0, 20),
    "killed and resumed": [*life(1, 0, 13), *life(2, 10, 20)],
    "killed twice at the same place": [*life(1, 0, 13), *life(2, 10, 12), *life(3, 10, 20)],
    "killed before the first checkpoint": [*life(1, 0, 3), *life(2, 0, 20)],
    "killed before it did anything": [*life(1, 0, 12), started(10, 2), *life(3, 10, 20)],
    "newest checkpoint damaged": [*life(1, 0, 17), rejected(15, 1, by=2), *life(2, 10, 20)],
    "resumed exactly at the end of the work": [*life(1, 0, 10), *life(2, 10, 20)],
}


@pytest.mark.parametrize("events", GOOD.values(), ids=GOOD.keys())
def test_sound_histories_are_accepted(events):
    assert history.check(events, 20) == []


def without(events, step, incarnation):
    return [e for e in events if not (e["event"] == "step" and (e["step"], e["incarnation"]) == (step, incarnation))]


def changed(events, step, incarnation, **fields):
    def change(e):
        hit = e["event"] == "step" and (e["step"], e["incarnation"]) == (step, incarnation)
        return {**e, **fields} if hit else e

    return [change(e) for e in events]


def swapped(events, first, second):
    events = list(events)
    events[first], events[second] = events[second], events[first]
    return events


RESUMED = GOOD["killed and resumed"]
FAULTY = {
    "a step is missing": (without(life(1, 0, 20), 7, 1), {GAP}),
    "the step after a resume is missing": (without(RESUMED, 11, 2), {GAP}),
    "resumed beyond what was done": ([*life(1, 0, 8), *life(2, 10, 20)], {GAP}),
    "samples are left out": (changed(life(1, 0, 20), 7, 1, first=6 * BATCH + 1), {GAP}),
    "samples are left out at the resume": (changed(RESUMED, 11, 2, first=10 * BATCH + 1), {GAP}),
    "not finished": (life(1, 0, 19), {GAP}),
    "nothing happened": ([], {GAP}),
    "a step twice": ([*life(1, 0, 20)[:6], step_event(5, 1), *life(1, 0, 20)[6:]], {DUPLICATE}),
    "samples twice": (changed(life(1, 0, 20), 7, 1, first=6 * BATCH - 1), {DUPLICATE}),
    "two steps swapped": (swapped(life(1, 0, 4, every=9), 2, 3), {GAP, REORDERED}),
    "other samples after the resume": (changed(RESUMED, 12, 2, digest=1), {FORK}),
    "another loss after the resume": (changed(RESUMED, 12, 2, loss=9.0), {FORK}),
    "started anew in spite of checkpoints": ([*life(1, 0, 13), *life(2, 0, 20)], {FORK}),
    "an older checkpoint, silently": ([*life(1, 0, 17), *life(2, 10, 20)], {FORK}),
    "resumed at another sample": (
        [*life(1, 0, 13), started(10, 2, samples_consumed=81), *(step_event(s, 2) for s in range(11, 21))],
        {FORK, DUPLICATE},
    ),
}


@pytest.mark.parametrize(("events", "expected"), FAULTY.values(), ids=FAULTY.keys())
def test_faulty_histories_are_found_out(events, expected):
    assert kinds(events, 20) & expected == expected


def test_a_commit_of_a_fenced_incarnation_is_a_fork():
    """The event that would tell of it was never written: the commit record in storage does."""
    events = [*life(1, 0, 13), *life(2, 10, 20)]
    assert kinds(events, 20, ["step-00000010.inc-000001"]) == set()
    assert kinds(events, 20, ["step-00000013.inc-000001"]) == {FORK}


def test_every_single_lost_step_event_is_noticed():
    for events in GOOD.values():
        kept = [(e["step"], e["incarnation"]) for e in history.trajectory(iter(events))]
        for step, incarnation in kept:
            assert GAP in kinds(without(events, step, incarnation), 20), (step, incarnation)


def test_a_fault_names_step_and_reason():
    (fault, *_) = history.check(without(life(1, 0, 20), 7, 1), 20)
    assert str(fault) == "gap at step 8: incarnation 1 did it right after step 6"


class TestSamples:
    def test_the_right_ones(self):
        assert history.check_samples(history.trajectory(iter(RESUMED)), EXPECTED) == []

    def test_one_wrong_sample_in_one_step(self):
        ids = [ref.sample_id for ref in ORDER.batch(6 * BATCH, BATCH)]
        ids[0] = (ids[0] + 1) % ORDER.samples
        wrong = int(history.sample_digest(history.np.array(ids, "uint64"), 6 * BATCH))
        steps = [e for e in changed(life(1, 0, 20), 7, 1, digest=wrong) if e["event"] == "step"]
        faults = history.check_samples(steps, EXPECTED)
        assert [(f.kind, f.step) for f in faults] == [(DIGEST, 7)]

    def test_the_right_samples_in_the_wrong_step(self):
        steps = [step_event(1, 1, digest=EXPECTED[2]), step_event(2, 1, digest=EXPECTED[1])]
        assert [f.step for f in history.check_samples(steps, EXPECTED)] == [1, 2]

    def test_digests_of_steps_are_all_different(self):
        assert len(set(EXPECTED.values())) == len(EXPECTED)


class TestCompare:
    def steps(self, **changes):
        return [step_event(step, 1, **(changes if step == 3 else {})) for step in range(1, 6)]

    def test_equal_runs(self):
        assert history.compare(self.steps(), self.steps()) == []
        assert history.compare(self.steps(loss=4.0 / 3 * (1 + 5e-5)), self.steps()) == []

    @pytest.mark.parametrize(
        ("changes", "kind"), [({"loss": 1.34}, LOSS), ({"digest": 1}, DIGEST), ({"loss": float("nan")}, LOSS)]
    )
    def test_unequal_runs(self, changes, kind):
        assert [(f.kind, f.step) for f in history.compare(self.steps(**changes), self.steps())] == [(kind, 3)]

    def test_missing_and_additional_steps(self):
        assert [f.kind for f in history.compare(self.steps()[:-1], self.steps())] == [GAP]
        assert [f.kind for f in history.compare(self.steps(), self.steps()[:-1])] == [DUPLICATE]


class TestCommand:
    @pytest.fixture
    def write(self, tmp_path):
        def write(name, events):
            store = LocalStore(tmp_path / name)
            logs = {}
            for event in events:
                number = event["incarnation"]
                log = logs.setdefault(number, opened(store, number, lambda: 1.0))
                log.write(event["event"], **{k: v for k, v in event.items() if k not in ("event", "incarnation")})
            for log in logs.values():
                log.flush()
            return str(tmp_path / name)

        return write

    def test_a_sound_run(self, write, capsys):
        assert history.main([write("run", RESUMED), "--against", write("other", life(1, 0, 20))]) == 0
        assert capsys.readouterr().out == "20 steps, 2 incarnations, 0 faults\n"

    def test_a_faulty_run(self, write, capsys):
        assert history.main([write("run", without(RESUMED, 11, 2))]) == 1
        assert "gap at step 12" in capsys.readouterr().out

    def test_a_run_that_differs(self, write, capsys):
        other = changed(life(1, 0, 20), 4, 1, loss=7.0)
        assert history.main([write("run", RESUMED), "--against", write("other", other)]) == 1
        assert "loss at step 4" in capsys.readouterr().out

    def test_nothing_there(self, tmp_path):
        assert history.main([str(tmp_path / "none")]) == 1

    def test_events_are_read_back_as_written(self, write):
        store = LocalStore(write("run", RESUMED))
        events = list(history.read_events(store))
        assert [{k: v for k, v in e.items() if k != "time"} for e in events] == json.loads(json.dumps(RESUMED))
