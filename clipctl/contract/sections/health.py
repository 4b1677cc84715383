"""What a run watches of itself while it trains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clipctl.contract.sections.base import NonNegativeInt, PositiveFloat, Section


class HealthSection(Section):
    """What a run watches of itself while it trains: hanging, silently diverging and slow ranks."""

    hang_seconds: PositiveFloat = 10.0
    """Seconds without progress after which a rank that waits for nobody counts as hanging and is replaced.
    Default 10."""

    checksum_steps: NonNegativeInt = 100
    """Optimiser steps between comparisons of the weights of all ranks, which must be equal bit for bit; a rank that
    differs is named, and the run goes back to its newest verified checkpoint. Default 100; 0 compares never."""

    straggler_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.5
    """A rank whose own time for a step (95th percentile) is more than this many times the median rank's is reported as
    slow. Default 1.5."""
