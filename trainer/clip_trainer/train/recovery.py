"""How long it takes to go on after the group changed: by rung of the recovery ladder, and by phase.

The rungs, from the cheapest to the dearest: `regroup` (a peer was lost; survivors keep their state), `shrink` (a peer
left in good order), `grow` (somebody joined), `restart` (nobody had a state; it came from storage).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clip_trainer.train.group import Group
from clip_trainer.train.run import Run
from clip_trainer.train.synchronise import STORAGE
from clipctl.contract import metric_names

REGROUP, SHRINK, GROW, RESTART = "regroup", "shrink", "grow", "restart"


@dataclass
class Recovery:
    """Measures from the end of one generation to the first step of the next.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    members: tuple[str, ...] = ()
    _number: int = 0
    _last: int = 0
    _before: tuple[str, ...] = ()
    _began: float | None = None
    _marked: float = 0.0
    _lost: bool = False
    _told: dict[str, Any] | None = None
    _shared: float = 0.0
    _seconds: dict[str, float] = field(default_factory=dict)

    def begin(self, *, lost: bool) -> None:
        """The generation is over here, because a peer was lost or in good order."""
        if self._began is None:
            self._began = self._marked = self.clock()
            self._seconds, self._lost, self._before = {}, False, self.members
        self._lost = self._lost or lost

    def phase(self, name: str) -> None:
        """The phase `name` has ended just now."""
        if self._began is not None:
            now = self.clock()
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._marked
            self._marked = now

    def entered(self, members: Sequence[str], number: int) -> None:
        """A generation with these members was formed."""
        self.members = tuple(members)
        self._last, self._number = self._number, number
        self._told = None

    def share(self, group: Group, origin: str) -> None:
        """All ranks learn what the change has cost so far: before the first step, which may be the last. Collective.

        Newcomers have measured nothing, those who were cut off their own absence. Both count what the slowest of the
        others has, because they may be rank 0 next.

        Args:
            group: the new one.
            origin: where this rank's state came from.
        """
        told = [one for one in group.gather_json(self._measured(origin)) if one is not None]
        last = max((one["last"] for one in told), default=0)
        stayed = [one for one in told if one["last"] == last]
        self._told = max(stayed, key=lambda one: float(one["seconds"]), default=None)  # None: the run has just begun
        self._shared = self.clock()

    def stepped(self, run: Run, generation: int) -> None:
        """A step is done; if it is the first one of a generation, say what the change has cost."""
        if self._told is None:
            return
        told, self._told = self._told, None
        step = round(self.clock() - self._shared, 4)
        phases = {**told["phases"], "step": step}
        rung, joined, lost, seconds = told["rung"], told["joined"], told["lost"], round(told["seconds"] + step, 4)
        if self._began is not None:
            self._began = None
            _export(run, rung, seconds, phases)
        run.state.recoveries[rung] = run.state.recoveries.get(rung, 0) + 1
        run.state.lost_seconds[rung] = round(run.state.lost_seconds.get(rung, 0.0) + seconds, 3)
        who = ", ".join([*(f"lost {name}" for name in lost), *(f"joined {name}" for name in joined)])
        run.events.tell(
            "regrouped",
            f"{run.spec.name}: {rung} in {seconds:.2f} s at step {run.state.step}, {run.group.world} ranks; {who}",
            step=run.state.step,
            world=run.group.world,
            generation=generation,
            rung=rung,
            seconds=seconds,
            phases=phases,
            joined=joined,
            lost=lost,
        )

    def _measured(self, origin: str) -> dict[str, Any] | None:
        """What the change has cost here, as JSON; None if this process was not in a group before."""
        if self._began is None:
            return None
        joined = [member for member in self.members if member not in self._before]
        return {
            "rung": _rung(origin, lost=self._lost, joined=bool(joined)),
            "last": self._last,
            "seconds": self._marked - self._began,
            "phases": {name: round(seconds, 4) for name, seconds in self._seconds.items()},
            "joined": joined,
            "lost": [member for member in self._before if member not in self.members],
        }


def _export(run: Run, rung: str, seconds: float, phases: Mapping[str, float]) -> None:
    run.metrics[metric_names.TRAIN_RECOVERIES].labels(rung).inc()
    run.metrics[metric_names.TRAIN_RECOVERY_SECONDS].labels(rung).observe(seconds)
    for name, taken in phases.items():
        run.metrics[metric_names.TRAIN_RECOVERY_PHASE].labels(name).set(taken)


def _rung(origin: str, *, lost: bool, joined: bool) -> str:
    if origin == STORAGE:
        return RESTART
    if lost:
        return REGROUP
    return GROW if joined else SHRINK
