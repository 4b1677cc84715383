"""Steps that must not change the weights: the loss or the gradient is not finite, or the loss leaps.

Everything the guard looks at is the same on every rank, so all ranks decide alike without talking about it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from clipctl.contract.sections import GuardSection


class Guard:
    """Judges each step before its update.

    Args:
        section: `train.guard` of run.yaml.

    Attributes:
        in_a_row: bad steps since the last good one.
        skipped: bad steps of the whole run.
        rollbacks: returns to a checkpoint so far.
        target: step of the checkpoint that was returned to last.
        since: step at which that was.
    """

    def __init__(self, section: GuardSection) -> None:
        self._section = section
        self._losses: deque[float] = deque(maxlen=section.window)
        self.in_a_row = 0
        self.skipped = 0
        self.rollbacks = 0
        self.target: int | None = None
        self.since = 0

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """Why the step must not change the weights, or None; counts it either way."""
        problem = self._problem(loss, gradient_norm)
        if problem is not None:
            self.in_a_row += 1
            self.skipped += 1
        else:
            self.in_a_row = 0
            if self._section.spike_factor is not None:
                self._losses.append(loss)
        return problem

    def _problem(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient's norm is {gradient_norm}"
        factor = self._section.spike_factor
        if factor is not None and len(self._losses) == self._section.window:
            mean = sum(self._losses) / len(self._losses)
            if loss > factor * mean:
                return f"the loss is {loss:.4g}, more than {factor:g} times the mean of {mean:.4g} before"
        return None

    @property
    def exhausted(self) -> bool:
        """Whether more steps in a row were bad than may be skipped."""
        return self.in_a_row > self._section.max_skipped

    @property
    def may_roll_back(self) -> bool:
        """Whether a return to a checkpoint is left."""
        return self.rollbacks < self._section.max_rollbacks

    def rolled_back(self, target: int, since: int, rollbacks: int, skipped: int) -> None:
        """Begin again at step `since`, after the return number `rollbacks`, to the checkpoint of step `target`."""
        self.target, self.since, self.in_a_row = target, since, 0
        self.rollbacks, self.skipped = rollbacks, skipped

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "losses": list(self._losses),
            "in_a_row": self.in_a_row,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "target": self.target,
            "since": self.since,
        }

    def load_json(self, raw: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self._losses = deque(raw["losses"], maxlen=self._section.window)
        self.in_a_row, self.skipped = raw["in_a_row"], raw["skipped"]
        self.rollbacks, self.target, self.since = raw["rollbacks"], raw["target"], raw["since"]
