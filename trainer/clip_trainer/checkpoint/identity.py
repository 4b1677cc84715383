"""Who writes a checkpoint: what commit records say about their origin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """What every commit record of this worker group says about its origin.

    Attributes:
        run: name of the run.
        attempt: number of the attempt, as the operator counts.
        incarnation: of the group, see `incarnation`; part of every key.
        spec_digest: of the run's specification.
        training_digest: of what must not change in a run.
        writer: host and process.
    """

    run: str
    attempt: int
    incarnation: int
    spec_digest: str
    training_digest: str
    writer: str
