"""The trainer in this very process, on one rank: for tests that look inside a run or stop it between two steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from clip_trainer.config import load_config
from clip_trainer.elastic.membership import Generation
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.train import loop
from clip_trainer.train.generations import train_through_generations
from clip_trainer.train.group import Group
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.prepare import prepare
from clip_trainer.train.run import Run
from clip_trainer.train.synchronise import synchronise
from clipctl.contract.errors import TryAgainError


def no_metrics(setter: Callable[[Any, str, Any], None]) -> None:
    """Let runs of this process serve no metrics.

    Args:
        setter: `monkeypatch.setattr`, which undoes it after the test.
    """
    setter(TrainerMetrics, "serve", lambda *_: 0)


class Alone:
    """The membership of one process, in as many generations as it takes.

    Args:
        before: called before each generation with its number.
        running: whether others were training when it came.
    """

    local_rank = 0

    def __init__(self, before: Callable[[int], None] = lambda number: None, *, running: bool = False) -> None:
        self.running = running
        self.number = 0
        self.code: int | None = None
        self._before = before

    def next(self) -> Generation:
        """One more generation of this process alone."""
        self.number += 1
        self._before(self.number)
        return Generation(self.number, 0, 1, ("node/0#1",), "", 0)

    def changed(self) -> bool:
        """Nobody else ever comes."""
        return False

    def leave(self) -> None:
        """Nobody has to be told."""

    def close(self, code: int) -> None:
        """Remember with what code the run was closed."""
        self.code = code


def train_generations_here(config: Path, membership: Alone) -> None:
    """Train through the generations of a membership to the end."""
    group = Group(0, 1, 0, torch.device("cpu"))
    train_through_generations(load_config(config), group, membership, PreemptionNotice())


def prepared(config: Path) -> Run:
    """The run of a configuration file, brought to its newest checkpoint."""
    run = prepare(load_config(config), Group(0, 1, 0, torch.device("cpu")))
    synchronise(run)
    return run


def train_here(config: Path, until: int | None = None) -> Run:
    """Train to the end, or stop as if asked to during step `until`; the run as it is then."""
    run, notice = prepared(config), PreemptionNotice()

    def ask() -> None:
        notice.received = run.state.step + 1 == until

    ask()
    try:
        with closing(ExperimentLogs(run)) as logs:
            loop.train(run, notice, logs, stepped=ask)
    except TryAgainError:
        assert until is not None
    return run
