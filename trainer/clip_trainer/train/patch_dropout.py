"""Patch dropout over time: a line through given corners (FLIP, arXiv 2212.00794, trains without it at the end)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from clip_trainer.model import ClipModel
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import PatchDropoutPoint


class PatchDropoutSchedule:
    """Sets the model's patch dropout before each step; without points it leaves the model alone.

    Args:
        points: `train.patch_dropout` of run.yaml.
        model: the model.

    Raises:
        SpecError: its image tower has no patch dropout.
    """

    def __init__(self, points: Sequence[PatchDropoutPoint], model: ClipModel) -> None:
        self._points = points
        self._model = model
        if points:
            try:
                model.set_patch_dropout(points[0].rate)
            except ValueError as error:
                raise SpecError(f"train.patch_dropout: {error}.", hint="Remove train.patch_dropout.") from None

    def apply(self, step: int) -> None:
        """Set the rate for optimiser step `step` (from 0)."""
        if self._points:
            self._model.set_patch_dropout(rate_at(step, self._points))


def rate_at(step: int, points: Sequence[PatchDropoutPoint]) -> float:
    """The rate at a step: linear between the points, constant before the first and after the last."""
    if step <= points[0].step:
        return points[0].rate
    for left, right in pairwise(points):
        if step < right.step:
            share = (step - left.step) / (right.step - left.step)
            return left.rate + share * (right.rate - left.rate)
    return points[-1].rate
