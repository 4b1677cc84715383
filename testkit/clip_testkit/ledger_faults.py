"""What can be wrong with a run's ledger."""

from __future__ import annotations

from dataclasses import dataclass

GAP = "gap"
"""A step or samples are missing."""
DUPLICATE = "duplicate"
"""A step was done, or samples were seen, twice on the same trajectory."""
REORDERED = "reordered"
"""Steps or generations are not in order."""
FORK = "fork"
"""Two groups disagree about the same step, or one went on from a state that was not the newest committed one."""
WORLD = "world"
"""A step was done by another number of ranks than had met."""
DIGEST = "digest"
"""A step consumed other samples than the order of the run says."""
LOSS = "loss"
"""A step's loss differs from that of the undisturbed run."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: its kind, the step it is about, and a sentence."""

    kind: str
    step: int
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}: {self.text}"
