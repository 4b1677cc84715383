"""Judge a run by its ledger: was every sample seen exactly once, in order, on one unbroken trajectory?

`python -m clip_testkit.history RUN_ROOT [--against OTHER_ROOT] [--config CONFIG.json]` prints every fault it finds and
ends with 1 if there is any. The ledger holds one event per optimiser step of every incarnation, also of work that was
lost; the checker follows the incarnations the way readers of checkpoints do.

An incarnation starts from a checkpoint, or from what survivors had in memory: then it begins with copies of the steps
that the one before it could not store any more. Within an incarnation the group may be formed again, of other ranks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from clip_testkit.ledger import Event, Incarnation, incarnations
from clip_testkit.ledger_faults import DIGEST, DUPLICATE, FORK, GAP, LOSS, REORDERED, WORLD, Fault
from clip_testkit.lineage import forked_weights, unequal_weights
from clip_trainer.config import load_config
from clip_trainer.data.order.base import Order
from clip_trainer.data.samples.opening import open_training_data
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.sample_order import order_of
from clipctl.contract import layout
from clipctl.contract.spec import RunSpec
from clipctl.contract.store import ObjectStore, open_store

LOSS_TOLERANCE = 1e-4


def check(events: Sequence[Event], total_steps: int | None = None, committed: Iterable[str] = ()) -> list[Fault]:
    """All faults of a ledger.

    Args:
        events: as `read_events` gives them.
        total_steps: the run must have got this far; None if it need not be finished.
        committed: ids of commit records that are in storage.
    """
    groups = incarnations(events)
    faults = [fault for group in groups for fault in _within(group)]
    faults += [fault for group in groups for fault in _worlds(group)]
    faults += _between(groups)
    faults += _passed_over(groups, set(committed))
    faults += forked_weights(groups)
    steps = trajectory(iter(events))
    faults += _tiling(steps)
    if total_steps is not None and (not steps or steps[-1]["step"] < total_steps):
        reached = steps[-1]["step"] if steps else 0
        faults.append(Fault(GAP, reached, f"the run ends there, {total_steps} steps were to be done"))
    return faults


def _within(group: Incarnation) -> Iterable[Fault]:
    """One incarnation does the steps after its start one by one, each on the samples after the last."""
    step, end, who = group.started["step"], group.started["samples_consumed"], f"incarnation {group.number}"
    for event in group.steps:
        now = event["step"]
        if now == step:
            yield Fault(DUPLICATE, now, f"{who} did it twice")
        elif now < step:
            yield Fault(REORDERED, now, f"{who} did it after step {step}")
        elif now > step + 1:
            yield Fault(GAP, now, f"{who} did it right after step {step}")
        elif event["first"] > end:
            yield Fault(GAP, now, f"{who} left out the samples from {end} to {event['first']}")
        elif event["first"] < end:
            yield Fault(DUPLICATE, now, f"{who} used the samples from {event['first']} to {end} again")
        step, end = max(step, now), event["end"] if now >= step else end


def _worlds(group: Incarnation) -> Iterable[Fault]:
    """Every step is done by the group that was formed last, which says so after its first step."""
    who, world, generation = f"incarnation {group.number}", group.started.get("world"), -1
    formed = {event["step"]: event for event in group.regrouped}
    own = [event for event in group.steps[group.copies :] if not event.get("copy")]
    for event in own:
        change = formed.get(event["step"])
        told = change is not None or event is own[-1]  # the last one may have died before it could tell
        if change is not None:
            world = change["world"]
            if change["generation"] <= generation:
                text = f"{who} went from generation {generation} to {change['generation']}"
                yield Fault(REORDERED, event["step"], text)
            generation = change["generation"]
        if world is not None and event.get("world", world) != world and (change or not told):
            yield Fault(WORLD, event["step"], f"{who} did it with {event['world']} ranks, {world} had met")


def _between(groups: Sequence[Incarnation]) -> Iterable[Fault]:
    """Each incarnation goes on from a step that was reached, and repeats lost work exactly."""
    kept: dict[int, Event] = {}
    done: dict[int, Event] = {}
    for group in groups:
        yield from _start(group, kept)
        kept = {step: event for step, event in kept.items() if step <= group.started["step"]}
        for event in group.steps:
            yield from _repeated(done.get(event["step"]), event)
            done[event["step"]] = kept[event["step"]] = event


def _start(group: Incarnation, kept: Mapping[int, Event]) -> Iterable[Fault]:
    start, who = group.started["step"], f"incarnation {group.number}"
    if start > 0 and start not in kept:
        yield Fault(GAP, start, f"{who} resumed after it, but no incarnation had done it")
    elif start > 0 and kept[start]["end"] != group.started["samples_consumed"]:
        position = group.started["samples_consumed"]
        yield Fault(FORK, start, f"{who} resumed at sample {position}, the step ended at {kept[start]['end']}")


def _repeated(before: Event | None, now: Event) -> Iterable[Fault]:
    if before is None or before["incarnation"] == now["incarnation"]:
        return
    who = f"incarnations {before['incarnation']} and {now['incarnation']}"
    if before["digest"] != now["digest"]:
        yield Fault(FORK, now["step"], f"{who} did it on different samples")
    elif not _close(before["loss"], now["loss"]):
        yield Fault(FORK, now["step"], f"{who} got the losses {before['loss']} and {now['loss']}")


def _passed_over(groups: Sequence[Incarnation], committed: set[str]) -> Iterable[Fault]:
    """A newer incarnation starts from the newest commit before it or from something newer, or says why not."""
    for older_index, older in enumerate(groups):
        own = older.checkpoints | {
            name
            for name in committed
            if (found := layout.parse_checkpoint_id(name)) and found.incarnation == older.number
        }
        for name in sorted(own):
            checkpoint = layout.parse_checkpoint_id(name)
            assert checkpoint is not None, name
            for newer in groups[older_index + 1 :]:
                if newer.state < checkpoint.step and name not in newer.rejected:
                    text = f"incarnation {newer.number} went on from step {newer.state} and does not say why"
                    yield Fault(FORK, checkpoint.step, f"{name} was committed, but {text}")


def _tiling(steps: Sequence[Event]) -> Iterable[Fault]:
    """The kept steps cover the samples from 0 on without gap or overlap."""
    number, end = 0, 0
    for event in steps:
        if event["step"] > number + 1:
            yield Fault(GAP, event["step"], f"the trajectory has no step {number + 1}")
        elif event["first"] > end:
            yield Fault(GAP, event["step"], f"the trajectory leaves out the samples from {end} to {event['first']}")
        elif event["first"] < end:
            yield Fault(DUPLICATE, event["step"], f"the trajectory uses samples from {event['first']} to {end} again")
        number, end = event["step"], event["end"]


def check_samples(steps: Iterable[Event], expected: Mapping[int, int]) -> list[Fault]:
    """Compare the digest of each step with `expected`, by step."""
    return [
        Fault(DIGEST, event["step"], "it consumed other samples than the order of the run says")
        for event in steps
        if event["digest"] != expected[event["step"]]
    ]


def compare(steps: Sequence[Event], undisturbed: Sequence[Event], tolerance: float = LOSS_TOLERANCE) -> list[Fault]:
    """Compare a trajectory with that of a run nothing happened to: the same samples, the same losses.

    Args:
        steps: trajectory to judge.
        undisturbed: trajectory of the other run.
        tolerance: largest relative difference of losses; other world sizes sum in another order.
    """
    wanted, faults = {event["step"]: event for event in undisturbed}, []
    for event in steps:
        other = wanted.pop(event["step"], None)
        if other is None:
            faults.append(Fault(DUPLICATE, event["step"], "the undisturbed run has no such step"))
        elif event["digest"] != other["digest"]:
            faults.append(Fault(DIGEST, event["step"], "it consumed other samples than in the undisturbed run"))
        elif not _close(event["loss"], other["loss"], tolerance):
            faults.append(Fault(LOSS, event["step"], f"{event['loss']} instead of {other['loss']}"))
    faults += unequal_weights(steps, undisturbed)
    return faults + [Fault(GAP, step, "only the undisturbed run has it") for step in wanted]


def expected_digests(order: Order, global_batch: int, steps: int) -> dict[int, int]:
    """Digest of the samples of every step 1 ... `steps`, from the order alone."""
    found = {}
    for step in range(1, steps + 1):
        position = (step - 1) * global_batch
        ids = order.sample_ids(position, global_batch).astype(np.uint64)
        found[step] = int(sample_digest(ids, position))
    return found


def judge(store: ObjectStore, spec: RunSpec | None = None, undisturbed: ObjectStore | None = None) -> list[Fault]:
    """All faults of the run in `store`, by every means at hand."""
    events = list(read_events(store))
    steps = trajectory(iter(events))
    committed = [key.rpartition("/")[2].removesuffix(".json") for key in _keys(store, layout.COMMITS)]
    faults = check(events, spec.train.steps if spec else None, committed)
    if spec is not None and steps:
        order = order_of(spec, open_training_data(spec.data))
        faults += check_samples(steps, expected_digests(order, spec.train.global_batch, steps[-1]["step"]))
    if undisturbed is not None:
        faults += compare(steps, trajectory(read_events(undisturbed)))
    return faults


def _keys(store: ObjectStore, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def _close(one: float | None, other: float | None, tolerance: float = LOSS_TOLERANCE) -> bool:
    if one is None or other is None:  # a loss that was not finite
        return one is other
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a run; returns 1 if anything is wrong with its history."""
    parser = argparse.ArgumentParser(prog="python -m clip_testkit.history", description=__doc__)
    parser.add_argument("root", help="where the run stores everything: <checkpoint.path>/<name>")
    parser.add_argument("--against", help="root of an undisturbed run with the same run.yaml")
    parser.add_argument("--config", help="the run's configuration file, to recompute which samples each step must see")
    options = parser.parse_args(arguments)
    spec = load_config(options.config).spec if options.config else None
    store = open_store(options.root)
    faults = judge(store, spec, open_store(options.against) if options.against else None)
    for fault in faults:
        print(fault)
    steps = trajectory(read_events(store))
    print(f"{len(steps)} steps, {len(incarnations(read_events(store)))} incarnations, {len(faults)} faults")
    return 1 if faults or not steps else 0


if __name__ == "__main__":
    sys.exit(main())
