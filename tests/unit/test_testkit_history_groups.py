"""Groups that form again, and incarnations that begin with what survivors had in memory."""

import pytest

from clip_testkit import history
from clip_testkit.history import DUPLICATE, FORK, GAP, REORDERED, WORLD
from clip_testkit.ledger import incarnations

BATCH = 8


def step(number, incarnation, world=2, **changes):
    fields = {
        "event": "step",
        "incarnation": incarnation,
        "step": number,
        "first": (number - 1) * BATCH,
        "end": number * BATCH,
        "digest": 1000 + number,
        "loss": 4.0 / number,
        "world": world,
        "checksum": f"{number}",
    }
    return {**fields, **changes}


def steps(first, last, incarnation, **changes):
    return [step(number, incarnation, **changes) for number in range(first, last + 1)]


def copies(first, last, incarnation, **changes):
    return steps(first, last, incarnation, copy=True, **changes)


def started(at, incarnation, world=2):
    fields = {"event": "started", "incarnation": incarnation, "step": at, "world": world}
    return {**fields, "samples_consumed": at * BATCH}


def regrouped(at, incarnation, world, generation):
    fields = {"event": "regrouped", "incarnation": incarnation, "step": at, "world": world, "generation": generation}
    return {**fields, "rung": "regroup", "seconds": 0.02}


def checkpoint(at, incarnation):
    return {"event": "checkpoint", "incarnation": incarnation, "checkpoint": f"step-{at:08d}.inc-{incarnation:06d}"}


def rejected(name, by):
    return {"event": "checkpoint_rejected", "incarnation": by, "checkpoint": name["checkpoint"]}


def kinds(events, total=12, committed=()):
    return {fault.kind for fault in history.check(events, total, committed)}


SHRUNK = [
    started(0, 1),
    *steps(1, 5, 1),
    step(6, 1, world=1),
    regrouped(6, 1, world=1, generation=2),
    *steps(7, 8, 1, world=1),
    step(9, 1),
    regrouped(9, 1, world=2, generation=3),
    *steps(10, 12, 1),
]
TAKEN_OVER = [
    started(0, 1),
    *steps(1, 5, 1),
    checkpoint(5, 1),
    started(5, 2, world=1),
    *copies(6, 8, 2),
    step(9, 2, world=1),
    regrouped(9, 2, world=1, generation=2),
    *steps(10, 12, 2, world=1),
]
STORED_AFTER_ALL = [started(0, 1), *steps(1, 7, 1), started(5, 2), *copies(6, 8, 2), *steps(9, 12, 2)]
A_STEP_BEHIND = [started(0, 1), *steps(1, 6, 1), started(5, 2), *steps(6, 12, 2)]
GOOD = {
    "the group shrinks and grows": SHRUNK,
    "rank 0 dies and had stored all": [started(0, 1), *steps(1, 5, 1), started(5, 2, 1), *steps(6, 12, 2, world=1)],
    "rank 0 dies with steps it had not stored": TAKEN_OVER,
    "rank 0 dies before it stored any step": [started(0, 1), started(0, 2), *copies(1, 3, 2), *steps(4, 12, 2)],
    "the successor copies steps that were stored after all": STORED_AFTER_ALL,
    "a committed checkpoint that survivors are beyond": [*TAKEN_OVER[:7], checkpoint(7, 1), *TAKEN_OVER[7:]],
    "survivors a step behind do it again": A_STEP_BEHIND,
    "rank 0 survives a step behind and copies what the others had done": [
        started(0, 1),
        *steps(1, 5, 1),
        *copies(6, 6, 1),
        step(7, 1, world=1),
        regrouped(7, 1, world=1, generation=2),
        *steps(8, 12, 1, world=1),
    ],
    "rank 0 dies between the first step of a group and the words about it": [
        started(0, 1),
        *steps(1, 5, 1),
        step(6, 1, world=1),
        started(6, 2),
        *steps(7, 12, 2),
    ],
    "a new attempt counts its generations from one": [
        started(0, 1),
        *steps(1, 5, 1),
        regrouped(5, 1, world=2, generation=7),
        started(5, 2),
        step(6, 2),
        regrouped(6, 2, world=2, generation=1),
        *steps(7, 12, 2),
    ],
}


@pytest.mark.parametrize("events", GOOD.values(), ids=GOOD.keys())
def test_sound_histories_are_accepted(events):
    assert history.check(events, 12) == []


def changed(events, number, incarnation, name="step", **fields):
    def hit(event):
        return event["event"] == name and (event["step"], event["incarnation"]) == (number, incarnation)

    assert any(hit(event) for event in events)
    return [{**event, **fields} if hit(event) else event for event in events]


def without(events, number, name="step"):
    return [event for event in events if not (event["event"] == name and event["step"] == number)]


FAULTY = {
    "a step is lost when the group shrinks": (without(SHRUNK, 6), {GAP, WORLD}),
    "the step is done twice when the group shrinks": (
        [*SHRUNK[:6], step(5, 1, world=1), *SHRUNK[6:]],
        {DUPLICATE, WORLD},
    ),
    "samples are left out when the group shrinks": (changed(SHRUNK, 6, 1, first=5 * BATCH + 1), {GAP}),
    "samples are used again when the group shrinks": (changed(SHRUNK, 6, 1, first=5 * BATCH - 1), {DUPLICATE}),
    "steps that no survivor copied": ([started(0, 1), *steps(1, 5, 1), started(8, 2), *steps(9, 12, 2)], {GAP}),
    "a copy is missing": (without(TAKEN_OVER, 7), {GAP}),
    "a copy says something else": (changed(STORED_AFTER_ALL, 7, 2, digest=1), {FORK}),
    "other samples when the step is done again": (changed(A_STEP_BEHIND, 6, 2, digest=1), {FORK}),
    "another loss when the step is done again": (changed(A_STEP_BEHIND, 6, 2, loss=9.0), {FORK}),
    "started before a checkpoint, though nobody had a memory": (
        [started(0, 1), *steps(1, 5, 1), checkpoint(5, 1), started(3, 2), *steps(4, 12, 2)],
        {FORK},
    ),
    "copies that do not reach the checkpoint": (
        [started(0, 1), *steps(1, 5, 1), checkpoint(5, 1), started(3, 2), *copies(4, 4, 2), *steps(5, 12, 2)],
        {FORK},
    ),
    "more ranks than had met": (changed(SHRUNK, 7, 1, world=2), {WORLD}),
    "other ranks, and nobody says so": (without(SHRUNK, 6, "regrouped"), {WORLD}),
    "other ranks than are said": (changed(SHRUNK, 6, 1, "regrouped", world=3), {WORLD}),
    "an older generation": (changed(SHRUNK, 9, 1, "regrouped", generation=1), {REORDERED}),
    "the same generation twice": (changed(SHRUNK, 9, 1, "regrouped", generation=2), {REORDERED}),
    "other weights by the same ranks": (changed(A_STEP_BEHIND, 6, 2, checksum="other"), {FORK}),
    "a copy with other weights": (changed(STORED_AFTER_ALL, 7, 2, checksum="other"), {FORK}),
}


@pytest.mark.parametrize(("events", "expected"), FAULTY.values(), ids=FAULTY.keys())
def test_faulty_histories_are_found_out(events, expected):
    assert kinds(events) == expected


def test_weights_may_differ_where_other_numbers_of_ranks_summed():
    """Sums in another order round differently; the losses are compared instead."""
    again = [started(0, 1), *steps(1, 5, 1), started(3, 2, world=1), *steps(4, 12, 2, world=1, checksum="other")]
    assert history.check(again, 12) == []


def test_weights_that_come_from_different_histories_are_not_compared():
    """Step 5 was done twice by two ranks, but the second time on the weights that one rank alone had made in step 4."""
    detour = [
        started(0, 1),
        *steps(1, 5, 1),
        started(3, 2, world=1),
        step(4, 2, world=1, checksum="4'"),
        started(4, 3),
        *steps(5, 12, 3, checksum="x"),
    ]
    assert history.check(detour, 12) == []


def test_every_single_lost_step_event_is_noticed():
    for name, events in GOOD.items():
        for lost in [event for event in history.trajectory(iter(events)) if not event.get("copy")]:
            assert GAP in kinds([event for event in events if event is not lost]), (name, lost["step"])


class TestCompare:
    def test_weights_of_runs_with_the_same_ranks_are_equal(self):
        undisturbed = steps(1, 12, 1)
        assert history.compare(steps(1, 12, 1), undisturbed) == []
        other = changed(steps(1, 12, 1), 7, 1, checksum="other")
        assert [(f.kind, f.step) for f in history.compare(other, undisturbed)] == [(FORK, 7)]

    def test_not_so_with_other_ranks(self):
        other = [*steps(1, 3, 1), *steps(4, 12, 1, world=1, checksum="other")]
        assert history.compare(other, steps(1, 12, 1)) == []


class TestIncarnations:
    def test_where_the_ledger_begins_and_where_the_state_was(self):
        first, second = incarnations(TAKEN_OVER)
        assert (first.started["step"], first.copies, first.state, len(first.steps)) == (0, 0, 0, 5)
        assert (second.started["step"], second.copies, second.state, len(second.steps)) == (5, 3, 8, 7)

    def test_what_was_said_besides(self):
        (only,) = incarnations([*SHRUNK, checkpoint(12, 1), rejected(checkpoint(4, 1), by=1)])
        assert [event["world"] for event in only.regrouped] == [1, 2]
        assert only.checkpoints == {"step-00000012.inc-000001"}
        assert only.rejected == {"step-00000004.inc-000001"}

    def test_what_never_started_is_left_out(self):
        assert incarnations([{"event": "metrics", "incarnation": 1, "port": 1}]) == []

    def test_nothing_but_copies(self):
        (only,) = incarnations([started(5, 1), *copies(6, 8, 1)])
        assert (only.copies, only.state) == (3, 8)
