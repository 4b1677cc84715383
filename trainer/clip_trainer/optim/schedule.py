"""Learning-rate schedules: a pure function of the step, so that nothing has to be stored or replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from clipctl.contract.errors import SpecError

KINDS = ("cosine", "constant", "constant-cooldown", "wsd", "none")
_FALLING = ("constant-cooldown", "wsd")


@dataclass(frozen=True)
class Schedule:
    """Shape of the learning rate over a run; steps are optimiser steps."""

    kind: str
    """One of `KINDS`."""
    lr: float
    """Peak learning rate."""
    warmup_steps: int
    """Steps of linear warm-up from lr / warmup_steps; `none` has no warm-up."""
    total_steps: int
    """Steps of the whole run; from here on the final value holds."""
    cooldown_steps: int = 0
    """constant-cooldown, wsd: length of the fall at the end."""
    cooldown_end: float = 0.0
    """constant-cooldown, wsd: learning rate at the end."""
    cooldown_power: float = 1.0
    """constant-cooldown: 1 falls in a line, 2 in a parabola."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"There is no schedule called {self.kind!r}.", hint=f"Known: {', '.join(KINDS)}.")
        if self.kind in _FALLING and not 0 < self.cooldown_steps <= self.total_steps:
            raise SpecError(
                f"A cooldown of {self.cooldown_steps} steps does not fit a run of {self.total_steps}.",
                hint="Give cooldown steps between 1 and the total.",
            )


def learning_rate(step: int, schedule: Schedule) -> float:
    """The learning rate of optimiser step `step` (from 0).

    OpenCLIP's formulas up to `total_steps`; beyond it the final value holds (OpenCLIP's cosine would rise again). `wsd`
    falls with 1 - sqrt (arXiv 2405.18392, section 4); `none` is OpenCLIP's `--skip-scheduler`.
    """
    if schedule.kind == "none":
        return schedule.lr
    if step < schedule.warmup_steps:
        return schedule.lr * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return schedule.lr
    if schedule.kind == "cosine":
        return _cosine(step, schedule)
    return _cooldown(step, schedule)


def _cosine(step: int, schedule: Schedule) -> float:
    span = schedule.total_steps - schedule.warmup_steps
    # The order of operations is OpenCLIP's, so that the floats are.
    angle = math.pi * min(step - schedule.warmup_steps, span) / span if span > 0 else math.pi
    return 0.5 * (1 + math.cos(angle)) * schedule.lr


def _cooldown(step: int, schedule: Schedule) -> float:
    start = schedule.total_steps - schedule.cooldown_steps
    if step < start:
        return schedule.lr
    progress = min(step - start, schedule.cooldown_steps) / schedule.cooldown_steps
    height = schedule.lr - schedule.cooldown_end
    remaining = 1 - math.sqrt(progress) if schedule.kind == "wsd" else (1 - progress) ** schedule.cooldown_power
    return float(remaining * height + schedule.cooldown_end)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` in every parameter group, times the group's `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
