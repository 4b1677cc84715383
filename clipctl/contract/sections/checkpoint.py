"""Where the state of a run is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from clipctl.contract.errors import SpecError
from clipctl.contract.resume_source import ResumeFile, ResumeRun, parse_resume_source
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.sections.base import Location, PositiveInt, Section

KeepCount = Annotated[int, Field(ge=2, le=10_000)]


class KeepSection(Section):
    """Which checkpoints to keep; one stays if any of the rules wants it. Two intact ones stay in any case."""

    last: KeepCount = 3
    """Newest checkpoints to keep. At least 2. Default 3."""

    every: PositiveInt | None = None
    """Keep all whose step is a multiple of this, in steps. Default: none for that reason."""

    best: Annotated[int, Field(ge=0, le=10_000)] = 0
    """So many with the lowest training loss. Default 0."""


class CheckpointSection(Section):
    """Where the run's state is kept. Resuming is automatic and uses verified checkpoints only."""

    path: Location
    """Directory or `s3://` URL; the run stores everything below `<path>/<name>`."""

    every_steps: PositiveInt = 1000
    """Steps between checkpoints. Default 1000. What a node loss costs is at most this many steps."""

    memory_steps: PositiveInt | None = 50
    """Steps between copies of a sharded state (`train.parallel: fsdp`) to the memory of two nodes, from which a run
    goes on when a worker or a node is lost. Default 50; null: none. They need room in `scale.resources.shm`: 4 / nodes
    times the size of a checkpoint. With `ddp` there are none, because every worker has the whole state anyway."""

    keep: KeepCount | KeepSection = 3
    """Newest verified checkpoints to keep, or rules (`last`, `every`, `best`). At least 2, so that damage to the newest
    never costs the run. Default 3."""

    resume_from: Location | None = None
    """Where to begin: an OpenCLIP training checkpoint (`epoch_K.pt`), or another run of clipctl by path or URL of its
    root, with `@latest` (the default), `@best` or `@STEP` behind it. Weights, optimiser state and position are taken
    over. Default: none. Ignored once the run has a checkpoint of its own."""

    @field_validator("resume_from")
    @classmethod
    def _names_a_checkpoint(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_resume_source(value)
            except SpecError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def keep_policy(self) -> KeepPolicy:
        """The rules of `keep`."""
        if isinstance(self.keep, int):
            return KeepPolicy(last=self.keep)
        return KeepPolicy(self.keep.last, self.keep.every, self.keep.best)

    @property
    def resume_source(self) -> ResumeFile | ResumeRun | None:
        """What `resume_from` names."""
        return None if self.resume_from is None else parse_resume_source(self.resume_from)
