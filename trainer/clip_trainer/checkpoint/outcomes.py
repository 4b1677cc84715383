"""What a save in the background came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from clipctl.contract.errors import ClipError
from clipctl.contract.layout import CheckpointId


@dataclass(frozen=True)
class Saved:
    """A checkpoint is committed.

    Attributes:
        checkpoint: which one.
        seconds: from the start of the save to its commit.
        bytes: of all ranks' objects.
    """

    checkpoint: CheckpointId
    seconds: float
    bytes: int


@dataclass(frozen=True)
class SaveFailed:
    """A checkpoint was not committed; earlier ones are untouched."""

    checkpoint: CheckpointId
    error: ClipError


Outcome: TypeAlias = Saved | SaveFailed
