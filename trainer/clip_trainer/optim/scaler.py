"""Loss scaling for fp16: keep small gradients from vanishing (arXiv 1710.03740, section 3.2).

The decision to skip an update depends only on the norm of the summed gradient, which is the same on every rank; so all
ranks have the same scale without talking about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class LossScaler:
    """A scale that halves when a gradient overflows and doubles after a long time without overflow.

    The numbers are those of `torch.amp.GradScaler`. All of them are powers of two, so scaling by itself rounds nothing.

    Attributes:
        scale: factor of the loss and so of all gradients.
        good_steps: steps without overflow since the scale last changed.
        growth_interval: good steps after which the scale doubles.
    """

    scale: float = 65536.0
    good_steps: int = 0
    growth_interval: int = 2000

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may be the scale's fault."""
        return self.scale > 1.0

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide all gradients by the scale, in place."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / self.scale)

    def update(self, gradient_norm: float) -> None:
        """Adapt the scale after a step whose gradient had this norm."""
        if not math.isfinite(gradient_norm):
            self.scale, self.good_steps = max(1.0, self.scale / 2), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def to_json(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_json(self, raw: dict[str, float]) -> None:
        """Take over what a checkpoint kept."""
        self.scale, self.good_steps = float(raw["scale"]), int(raw["good_steps"])
