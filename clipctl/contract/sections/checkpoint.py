"""Where the state of a run is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clipctl.contract.sections.base import Location, PositiveInt, Section


class CheckpointSection(Section):
    """Where the run's state is kept. Resuming is automatic and uses verified checkpoints only."""

    path: Location
    """Directory or `s3://` URL; the run stores everything below `<path>/<name>`."""

    every_steps: PositiveInt = 1000
    """Steps between checkpoints. Default 1000. What a node loss costs is at most this many steps."""

    keep: Annotated[int, Field(ge=2, le=10_000)] = 3
    """Newest verified checkpoints to keep. At least 2, so that damage to the newest never costs the run. Default 3."""

    resume_from: Location | None = None
    """An OpenCLIP training checkpoint (`epoch_K.pt`) to continue: weights, AdamW state and position. Default: none.
    Ignored once the run has a checkpoint of its own."""
