"""One run trained by groups of changing size, in processes that stay: for comparing what came of it.

`train_scenarios` can be sent to the processes of `run_ranks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from clip_testkit.ranks import meet
from clip_trainer.config import load_config
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.parallel.pieces import local
from clip_trainer.train.divergence import checksum
from clip_trainer.train.group import Group
from clip_trainer.train.loop import RegroupError, train
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.prepare import prepare
from clip_trainer.train.run import Run
from clip_trainer.train.synchronise import synchronise


class Phase(NamedTuple):
    """Training by the first `world` ranks until step `until` is done."""

    world: int
    until: int


class Scenario(NamedTuple):
    """A run and the groups that train it, one after the other."""

    config: str
    phases: tuple[Phase, ...]


class StepTaken(NamedTuple):
    """One optimiser step."""

    world: int
    digest: int
    """Of the samples."""
    lr: float
    loss: float
    gradient_norm: float


@dataclass
class Trained:
    """What a scenario was, as one rank saw it."""

    steps: dict[int, StepTaken] = field(default_factory=dict)
    checksum: int = 0
    """Of this rank's weights when it left for the last time."""


def train_scenarios(rank: int, folder: str, scenarios: list[Scenario]) -> list[Trained]:
    """Every scenario on the ranks it wants; the others wait for the next one.

    Args:
        rank: of this process.
        folder: for the rendezvous of each group.
        scenarios: what to train.
    """
    found = []
    for number, scenario in enumerate(scenarios):
        trained, run = Trained(), None
        group = Group(0, 1, rank, torch.device("cpu"))
        for index, phase in enumerate(scenario.phases):
            if rank < phase.world:
                if index and run is None:
                    run = prepare(load_config(Path(scenario.config)), group)  # alone, as who joins others later
                _meet(Path(folder) / f"{number}-{index}", rank, phase.world)
                group.become(rank, phase.world)
                run = run or prepare(load_config(Path(scenario.config)), group)
                _train_until(run, phase, trained)
        found.append(trained)
    _meet(Path(folder) / "end", rank, max(phase.world for s in scenarios for phase in s.phases))
    return found


def _meet(file: Path, rank: int, world: int) -> None:
    dist.destroy_process_group()
    meet(str(file), rank, world)


def _train_until(run: Run, phase: Phase, trained: Trained) -> None:
    synchronise(run)
    step = run.step

    def recorded(batch: Any, lr: float, wishes: Any) -> Any:
        result = step(batch, lr, wishes)
        number = run.state.step + 1
        trained.steps[number] = StepTaken(run.group.world, result.digest, lr, result.loss, result.gradient_norm)
        return result

    run.step = recorded  # type: ignore[assignment]
    logs = ExperimentLogs(run)
    try:
        train(run, PreemptionNotice(), logs, changed=lambda: run.state.step + 1 == phase.until)
    except RegroupError:
        pass
    finally:
        logs.close()
        run.step = step
    trained.checksum = checksum(map(local, run.model.state_dict().values()))
