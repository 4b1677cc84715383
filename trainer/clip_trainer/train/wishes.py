"""What one rank wants all others to know at the end of a step; it travels with the step's own sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Wishes:
    """Whole numbers, summed over the ranks, so that all of them decide alike after the same step.

    Attributes:
        preempted: 1 from a rank that was asked to stop; summed: how many were.
        regroup: 1 from a rank that knows of another group; summed: whether to leave this one.
        saved: from rank 0, the newest step whose checkpoint is committed; from all others 0.
        failed_saves: from rank 0, the checkpoints in a row that could not be stored; from all others 0.
        saving: 1 from a rank whose save is still in flight; summed: how many are.
        failed_shares: 1 from a rank that could not store its share of the save in flight; summed: how many could not.
    """

    preempted: int = 0
    regroup: int = 0
    saved: int = 0
    failed_saves: int = 0
    saving: int = 0
    failed_shares: int = 0

    def numbers(self) -> list[int]:
        """In a fixed order, to be summed."""
        return list(astuple(self))

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Wishes:
        """From the sums of `numbers`."""
        return cls(*numbers)


NOTHING = Wishes()
