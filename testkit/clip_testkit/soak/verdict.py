"""What is said about a run after its faults: everything that is wrong with it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from clip_testkit.history import judge
from clip_testkit.ledger import Event
from clip_trainer.train.events import read_events, trajectory
from clipctl.contract.commits import iterate_verified
from clipctl.contract.errors import ClipError
from clipctl.contract.spec import RunSpec
from clipctl.contract.store import ObjectStore


@dataclass(frozen=True)
class Ending:
    """How the processes of a run ended.

    Attributes:
        codes: exit status of each agent, by its number; None for one that did not end in time.
        left_over: command lines of processes that should be gone.
    """

    codes: Mapping[int, int | None]
    left_over: Collection[str] = ()


@dataclass(frozen=True)
class Verdict:
    """Everything that is wrong, and what the ledger says about time.

    Attributes:
        problems: sentences; none for a clean run.
        steps: of the run.
        seconds: from the first step to the last, lost work and repairs included.
        goodput: time of the steps, had nothing happened, over `seconds`.
    """

    problems: tuple[str, ...]
    steps: int
    seconds: float
    goodput: float | None

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def decide(
    store: ObjectStore, spec: RunSpec, undisturbed: ObjectStore, damaged: Collection[str], ending: Ending
) -> Verdict:
    """Judge a run that has ended.

    Args:
        store: of the run.
        spec: of the run.
        undisturbed: store of a run with the same spec that nothing happened to.
        damaged: ids of checkpoints that were damaged on purpose.
        ending: how the processes ended.
    """
    problems = [str(fault) for fault in judge(store, spec, undisturbed)]
    problems += damage(store, damaged)
    problems += ended(ending)
    events = list(read_events(store))
    steps = trajectory(iter(events))
    return Verdict(tuple(problems), len(steps), *times(events, steps))


def damage(store: ObjectStore, on_purpose: Collection[str]) -> list[str]:
    """Committed checkpoints that do not verify although nobody damaged them; and if there is none at all."""
    checked = list(iterate_verified(store))
    found = [
        f"checkpoint {checkpoint} does not verify: {record.problem}"
        for checkpoint, record in checked
        if isinstance(record, ClipError) and str(checkpoint) not in on_purpose
    ]
    return found if checked else ["there is no checkpoint"]


def ended(ending: Ending) -> list[str]:
    """Agents that did not end well, and processes that did not end."""
    codes = [
        f"agent {index} did not end" if code is None else f"agent {index} ended with exit code {code}"
        for index, code in sorted(ending.codes.items())
        if code != 0
    ]
    return codes + [f"a process is left over: {command}" for command in ending.left_over]


def times(events: Sequence[Event], steps: Sequence[Event]) -> tuple[float, float | None]:
    """Seconds of the run, and its goodput.

    A step's time, had nothing happened, is the median between neighbours of the same incarnation and world; of the
    largest world, since that is what would have trained.
    """
    done = [event for event in events if event["event"] == "step" and not event.get("copy")]
    if len(done) < 2:
        return 0.0, None
    seconds = max(event["time"] for event in done) - min(event["time"] for event in done)
    largest = max(event["world"] for event in done)
    gaps = [
        later["time"] - earlier["time"]
        for earlier, later in itertools.pairwise(done)
        if later["incarnation"] == earlier["incarnation"] and earlier["world"] == later["world"] == largest
    ]
    if not gaps or seconds <= 0:
        return seconds, None
    return seconds, min(1.0, statistics.median(gaps) * (len(steps) - 1) / seconds)
