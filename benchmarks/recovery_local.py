"""Seconds from a sudden death to the next optimiser step, on this machine.

    python benchmarks/recovery_local.py             # the real trainer, a tiny model
    python benchmarks/recovery_local.py --probe     # a worker without torch: what agent and rendezvous cost alone

Two agents with one worker each and a separate rendezvous store; one victim after the other, `--repeat` times. Every
wait is bounded. Times come from what the workers themselves write down at their first step of a new round.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_testkit.agents import AgentGroup, process_state, wait_until

PATIENCE = 120.0


class ProbeRun:
    """A run of `clip_testkit.elastic_probe`."""

    worker = "clip_testkit.elastic_probe"
    config = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"PROBE_STEPS": "10000000"}

    def step_since(self, since: float, world: int) -> float | None:
        """When the first step was taken by workers that started after `since`."""
        file = self.directory / "ledger.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        fresh = {line["pid"] for line in lines if line["event"] == "start" and line["t"] > since}
        steps = [x["t"] for x in lines if x["event"] == "step" and x["pid"] in fresh and x["world"] == world]
        return min(steps, default=None)


class TrainerRun:
    """A run of the real trainer on random pictures."""

    worker = "clip_trainer.main"

    def __init__(self, directory: Path) -> None:
        self.environment: dict[str, str] = {}
        self.config = directory / "config.json"
        self.config.write_text(json.dumps(self._config(directory)))
        self.status = directory / "runs" / "recovery" / "status.json"
        self._known = 0

    def step_since(self, since: float, world: int) -> float | None:
        """When the newest incarnation, begun after `since`, took its first step."""
        try:
            status = json.loads(self.status.read_text())
        except (OSError, ValueError):
            return None
        if status["updated_at"] < since or status["world_size"] != world or status["incarnation"] <= self._known:
            return None
        self._known = status["incarnation"]
        return float(status["updated_at"])

    @staticmethod
    def _config(directory: Path) -> dict[str, Any]:
        from clipctl.contract.spec import RunSpec

        _make_pictures(directory)
        spec = RunSpec.model_validate(
            {
                "name": "recovery",
                "model": {"name": "ViT-tiny-8-32", "precision": "fp32"},
                "data": {"train": str(directory / "data"), "threads": 1},
                "train": {"global_batch": 8, "steps": 1_000_000, "warmup_steps": 0},
                "checkpoint": {"path": str(directory / "runs"), "every_steps": 20},
                "scale": {"nodes": {"min": 1, "max": 2}},
            }
        )
        return {"spec": spec.resolved(), "spec_digest": spec.digest()}


def _make_pictures(directory: Path) -> None:
    import numpy as np
    from PIL import Image

    from clip_trainer.data.pack.item import ListedItems, PackItem
    from clip_trainer.data.pack.pack import pack
    from clip_trainer.data.writing.shard_writer import WriteOptions

    random = np.random.default_rng(0)
    (directory / "raw").mkdir()
    items = []
    for index in range(64):
        file = directory / "raw" / f"{index:03d}.png"
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
        items.append(PackItem(str(file), (f"picture number {index}",)))
    pack(ListedItems(items), str(directory / "data"), WriteOptions(samples_per_shard=32))


class Bench:
    """Kills and measures. `world` is the size the group must have again."""

    def __init__(self, group: AgentGroup, run: ProbeRun | TrainerRun) -> None:
        self.group = group
        self.run = run
        self.seconds: dict[str, list[float]] = {}

    def measure(self, what: str, act: Callable[[], None], world: int) -> None:
        """Do it, wait for the next step in a world of that size, and remember how long it took."""
        time.sleep(1.5)  # let the group settle, so that a checkpoint exists and every start has an end
        began = time.time()
        act()
        recovered = wait_until(
            lambda: self.run.step_since(began, world), PATIENCE, f"{what}: no step\n{self.group.log()}"
        )
        self.seconds.setdefault(what, []).append(recovered - began)
        print(f"{what}: {recovered - began:.2f} s", file=sys.stderr, flush=True)

    def worker_of(self, rank: int) -> int:
        """Pid of the living worker with that rank."""
        for pid in self.group.left_over():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in variables and process_state(pid) not in "XZ":
                return pid
        raise AssertionError(f"no worker with rank {rank}")

    def end_agent(self, index: int, number: signal.Signals) -> None:
        """Send a signal to an agent and wait for its end if it is a sudden one."""
        self.group.agents[index].send_signal(number)
        if number == signal.SIGKILL:
            self.group.wait(index)

    def renew_store(self) -> None:
        """Kill the rendezvous store and start another one at its address."""
        assert self.group.store is not None
        self.group.store.kill()
        self.group.store.wait()
        self.group.start_store()

    def once(self) -> None:
        """One death of every kind."""
        for rank in (1, 0):
            self.measure(f"SIGKILL worker, rank {rank}", lambda rank=rank: os.kill(self.worker_of(rank), 9), 2)
        for index in (1, 0):
            self.measure("SIGKILL agent: the other goes on alone", lambda i=index: self.end_agent(i, signal.SIGKILL), 1)
            self.measure("  ... it comes back: both", lambda i=index: self.group.start_agent(i), 2)
        self.measure("SIGTERM agent: the other goes on alone", lambda: self.end_agent(1, signal.SIGTERM), 1)
        assert self.group.wait(1) == 75
        self.measure("  ... it comes back: both", lambda: self.group.start_agent(1), 2)
        self.measure("SIGKILL rendezvous store, new one: both", self.renew_store, 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probe", action="store_true", help="workers without torch")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        run = ProbeRun(directory) if options.probe else TrainerRun(directory)
        with AgentGroup(directory, nodes=2, worker=run.worker, config=run.config, environment=run.environment) as group:
            bench = Bench(group, run)
            group.start_store()
            bench.measure("start", lambda: [group.start_agent(index) for index in (0, 1)] and None, 2)
            for _ in range(options.repeat):
                bench.once()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, worker {run.worker}")
    for what, seconds in bench.seconds.items():
        shown = f"{statistics.median(seconds):6.2f}  {min(seconds):6.2f}  {max(seconds):6.2f}"
        print(f"{what:45} {shown}  (median, min, max of {len(seconds)}; s)")


if __name__ == "__main__":
    main()
