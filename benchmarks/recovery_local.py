"""Seconds from a sudden death to the next optimiser step, on this machine.

    python benchmarks/recovery_local.py --kills 20

The real trainer with a tiny model: two agents with one worker each and a coordinator; one victim after the other, each
in a full group. Times are those of the ledger: from the signal to the end of the first step afterwards. What the phases
of forming a group again take comes from the trainer's own `regrouped` events.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clip_testkit.agents import AgentGroup, wait_until
from clip_testkit.history import check
from clip_testkit.soak.scene import Scene, Victim
from clip_testkit.soak.workload import prepare
from clip_trainer.train.events import read_events

NODES = 2
PATIENCE = 600.0
PACE = 0.02
_STEPS_TO_RECONNECT = 200
"""In which everybody finds a coordinator that has just come back: two faults at once are another measurement."""
Event = dict[str, Any]


class Bench:
    """Kills, and remembers when."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.deaths: list[tuple[str, float]] = []

    def full_group(self) -> list[Victim]:
        """Wait until all workers train in one generation; by rank."""

        def complete() -> list[Victim]:
            self.scene.do_what_is_due()
            workers = self.scene.workers()
            newest = max((worker.reading.generation for worker in workers), default=0)
            inside = [w for w in workers if w.reading.generation == newest and w.reading.doing != "idle"]
            return sorted(inside, key=lambda w: w.reading.rank) if newest and len(inside) == NODES else []

        found: list[Victim] = wait_until(complete, PATIENCE, f"a full group\n{self.scene.group.log()[-3000:]}")
        return found

    def measure(self, what: str, act: Callable[[list[Victim]], None]) -> None:
        """Do it to a full group that has done some steps."""
        self._more_steps(20)
        victims = self.full_group()
        reached = max(worker.reading.step for worker in victims)
        self.deaths.append((what, time.time()))
        act(victims)
        wait_until(lambda: self._beyond(reached + 3), PATIENCE, f"{what}\n{self.scene.group.log()[-3000:]}")
        print(f"{what}: {time.time() - self.deaths[-1][1]:.1f} s until some steps later", file=sys.stderr, flush=True)

    def _more_steps(self, steps: int) -> None:
        begun = max(worker.reading.step for worker in self.full_group())
        wait_until(lambda: self._beyond(begun + steps), PATIENCE, "some steps")

    def _beyond(self, step: int) -> bool:
        self.scene.do_what_is_due()
        return any(worker.reading.step >= step for worker in self.scene.workers())

    def _coordinator_is_back(self) -> bool:
        self.scene.do_what_is_due()
        coordinator = self.scene.group.coordinator
        return coordinator is not None and coordinator.poll() is None

    def all_kinds(self, kills: int, others: int) -> None:
        """Everything: `kills` workers that are not rank 0, and so many of each other kind."""
        for _ in range(kills):
            self.measure("SIGKILL worker, rank 1", lambda victims: self.scene.kill(victims[1].pid))
        for _ in range(others):
            self.measure("SIGKILL worker, rank 0", lambda victims: self.scene.kill(victims[0].pid))
            self.measure("SIGKILL agent", lambda victims: self.scene.end_agent(victims[-1].agent, signal.SIGKILL, 1.0))
            self.measure("SIGKILL coordinator", lambda _: self.scene.renew_coordinator(1.0))
            wait_until(self._coordinator_is_back, PATIENCE, "the coordinator")
            self._more_steps(_STEPS_TO_RECONNECT)
        for _ in range(max(1, others // 3)):
            self.measure("SIGSTOP worker, a hang", lambda victims: self.scene.kill(victims[1].pid, signal.SIGSTOP))


def recovered(events: Sequence[Event], since: float) -> float | None:
    """Seconds from `since` to the end of the first step of the next group; to the next step if none had to form."""
    later = [event for event in events if event["time"] > since]
    formed = [event["time"] for event in later if event["event"] == "regrouped"]
    began = [event for event in later if event["event"] == "started"]
    anew = [
        e["time"]
        for e in later
        if e["event"] == "step" and not e.get("copy") and began and e["time"] > began[0]["time"]
    ]
    ends = [min(times) for times in (formed, anew) if times]
    return min(ends) - since if ends else None


def longest_pause(events: Sequence[Event], since: float, until: float) -> float | None:
    """The longest time between two steps in a while."""
    steps = sorted(
        e["time"] for e in events if e["event"] == "step" and not e.get("copy") and since < e["time"] < until
    )
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    return max(gaps, default=None)


def table(events: Sequence[Event], deaths: Sequence[tuple[str, float]]) -> None:
    """Print what each kind of death has cost, and what the phases of forming a group again have."""
    seconds: dict[str, list[float]] = {}
    for index, (what, at) in enumerate(deaths):
        until = deaths[index + 1][1] if index + 1 < len(deaths) else float("inf")
        within = [event for event in events if event["time"] < until]
        survives = what == "SIGKILL coordinator"
        value = longest_pause(within, at, until) if survives else recovered(within, at)
        if value is not None:
            seconds.setdefault(what, []).append(value)
    for what, values in seconds.items():
        print(f"{what:45} {line(values)}  s")
    for rung in ("regroup", "shrink", "grow", "restart"):
        told = [event for event in events if event["event"] == "regrouped" and event["rung"] == rung]
        for phase in ("leave", "form", "synchronise", "step"):
            values = [event["phases"][phase] * 1000 for event in told if phase in event.get("phases", {})]
            if values:
                print(f"{f'{rung}: {phase}':45} {line(values)}  ms")


def line(values: Sequence[float]) -> str:
    """Median, 99th percentile, largest and how many."""
    ordered = sorted(values)
    ninety_ninth = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return (
        f"p50 {statistics.median(ordered):8.2f}  p99 {ninety_ninth:8.2f}  max {ordered[-1]:8.2f}  of {len(ordered):3}"
    )


def main() -> int:
    """Print the table; returns 1 if the run lost, repeated or reordered a sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of workers other than rank 0")
    parser.add_argument("--others", type=int, default=5, help="of each other kind; hangs are a third of that")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="how ranks share the model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        workload = prepare(directory / "run", 1_000_000, NODES, parallel=options.parallel)
        environment = {"PET_MAX_RESTARTS": "1000000"}
        with AgentGroup(
            directory, nodes=NODES, worker="clip_trainer.main", config=workload.config, environment=environment
        ) as group:
            scene = Scene(group, workload, directory, PACE)
            bench = Bench(scene)
            group.start_coordinator()
            for index in range(NODES):
                scene.start_agent(index)
            bench.all_kinds(options.kills, options.others)
            for agent in group.agents.values():
                agent.send_signal(signal.SIGTERM)  # so that the ledger is stored to its end
            for index in group.agents:
                group.wait(index, PATIENCE)
            events = list(read_events(workload.store))
            load = os.getloadavg()[0]
    print(f"load average {load:.1f} on {os.cpu_count()} cores, {NODES} agents with a worker each")
    table(events, bench.deaths)
    faults = check(events)
    print(*faults[:20], f"{len(bench.deaths)} deaths, {len(faults)} faults in the ledger", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
