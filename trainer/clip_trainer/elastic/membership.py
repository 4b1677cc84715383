"""Who trains together: numbered generations of worker processes.

A generation is a fixed list of members; whoever joins or is lost starts the next one. A process that survives keeps its
pid and its state in memory, and only changes rank and process group between two generations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from clipctl.contract.errors import TryAgainError

ENV_COORDINATOR = "CLIPCTL_COORDINATOR"


class ClosedError(Exception):
    """The run is over for everybody, with the exit code `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the run was closed with exit code {code}")
        self.code = code


class PeerLostError(TryAgainError):
    """A member of the generation is gone; the others can form the next one."""


@dataclass(frozen=True)
class Generation:
    """One list of members, and where their process group meets."""

    number: int
    """1, 2, ...; never used twice in a run."""
    rank: int
    """This process's place in `members`."""
    world: int
    members: tuple[str, ...]
    """Names by rank, like `node/slot#start`."""
    host: str
    """Address of the process group's store, which rank 0 hosts."""
    port: int


class Membership(Protocol):
    """This process's place among the workers of a run. One thread calls it; `changed` may be read from any."""

    @property
    def running(self) -> bool:
        """Whether a generation was already training when this process arrived: build alone first, then join."""
        ...

    @property
    def local_rank(self) -> int:
        """The number of this process on its node, which is also its device's."""
        ...

    def next(self) -> Generation:
        """Wait for the next generation; the process group of the last one must have been left before.

        Raises:
            ClosedError: the run is over.
            TryAgainError: there is no next generation for this process, but there may be for a new one.
            UnavailableError: nobody answers who could say.
        """
        ...

    def changed(self) -> bool:
        """Whether to leave the generation at the next step boundary. Costs nothing; called every step."""
        ...

    def leave(self) -> None:
        """Go in good order, not to be waited for."""
        ...

    def close(self, code: int) -> None:
        """End the run for everybody with exit code `code`; the first one to close decides."""
        ...


def membership_from_environment(environ: Mapping[str, str] = os.environ) -> Membership:
    """The membership that the agent's variables describe; without them torchrun's, or one process alone.

    Raises:
        SpecError: a variable does not have the form it needs.
        UnavailableError: the coordinator does not answer within its time.
    """
    if environ.get(ENV_COORDINATOR):
        from clip_trainer.elastic.coordinated_membership import CoordinatedMembership
        from clip_trainer.elastic.member_settings import MemberSettings
        from clip_trainer.elastic.process_group import break_group, open_store

        return CoordinatedMembership(MemberSettings.from_environment(environ), open_store, break_group)
    from clip_trainer.elastic.static_membership import StaticMembership

    return StaticMembership.from_environment(environ)
