"""What changes the weights: optimiser, its groups, the average of the weights, the guard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from clipctl.contract.sections.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]
UnitInterval = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class LayerDecaySection(Section):
    """Learning rates that fall from the output of a tower to its input (arXiv 2106.08254)."""

    image: UnitInterval = 1.0
    """Factor from one image layer to the one before. Default 1: none."""

    text: UnitInterval = 1.0
    """Factor from one text layer to the one before. Default 1: none."""


class ParameterGroupSection(Section):
    """Other settings for some parameters; the first group that matches counts."""

    match: Glob
    """Shell pattern over parameter names, as `visual.*`. A pattern without a match is an error."""

    learning_rate_scale: NonNegativeFloat = 1.0
    """Factor on the learning rate. Default 1."""

    weight_decay: NonNegativeFloat | None = None
    """Weight decay of the matching parameters that decay at all. Default: as without the group."""


class EmaSection(Section):
    """Average of the weights, used for evaluation and export; the raw weights are exported below `export/raw/`."""

    decay: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.9999
    """Share of the old average that stays at each update. Default 0.9999."""

    every_steps: PositiveInt = 1
    """Optimiser steps between updates. Default 1."""


class GuardSection(Section):
    """What to do about steps whose loss or gradient is not finite, or that leap."""

    max_skipped: NonNegativeInt = 10
    """Bad steps in a row whose update is skipped before the weights go back to the last verified checkpoint from before
    them; the data goes on. Default 10."""

    max_rollbacks: NonNegativeInt = 2
    """Returns to a checkpoint before the run fails; each in vain goes one checkpoint further back. Default 2."""

    spike_factor: PositiveFloat | None = None
    """Also treat a step as bad if its loss exceeds the mean of the last `window` steps this many times. Default: only
    non-finite values are bad."""

    window: PositiveInt = 100
    """Steps the mean of the loss is taken over. Default 100."""


class PatchDropoutPoint(Section):
    """A corner of the patch-dropout schedule."""

    step: NonNegativeInt
    """Optimiser step."""

    rate: Fraction
    """Share of patches left out at that step; linear between the points."""


OptimizerOptions = dict[Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]*$")], bool | int | float | str]
DecayRule = Literal["openclip", "modern"]
