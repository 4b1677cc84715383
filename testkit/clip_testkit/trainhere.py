"""The trainer in this very process, on one rank: for tests that look inside a run or stop it between two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clip_trainer.config import load_config
from clip_trainer.train import loop
from clip_trainer.train import run as run_module
from clip_trainer.train.group import Group
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.run import Run
from clipctl.contract.errors import TryAgainError


def no_metrics(setter: Callable[[Any, str, Any], None]) -> None:
    """Let runs of this process serve no metrics.

    Args:
        setter: `monkeypatch.setattr`, which undoes it after the test.
    """
    setter(TrainerMetrics, "serve", lambda *_: 0)


def prepared(config: Path) -> Run:
    """The run of a configuration file, brought to its newest checkpoint."""
    return run_module.prepare(load_config(config), Group(0, 1, 0, torch.device("cpu")))


def train_here(config: Path, until: int | None = None) -> Run:
    """Train to the end, or stop as if asked to during step `until`; the run as it is then."""
    run = prepared(config)
    step = run.step

    def stopping(batch: Any, rate: float, preempted: bool) -> Any:
        return step(batch, rate, preempted or run.state.step + 1 == until)

    run.step = stopping  # type: ignore[assignment]
    try:
        loop.train(run, PreemptionNotice())
    except TryAgainError:
        assert until is not None
    return run
