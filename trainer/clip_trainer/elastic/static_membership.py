"""A membership that never changes: torchrun's `env://` variables, or one process alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from clip_trainer.elastic.membership import Generation
from clipctl.contract.errors import SpecError, TryAgainError

STORE_SECONDS = 300.0
"""Longest wait for rank 0, as torchrun's."""
_CONNECT_SECONDS = 5.0
_PAUSE_SECONDS = 0.2


class StaticMembership:
    """`Membership` with exactly one generation.

    Args:
        generation: that one.
        local_rank: the number of this process on its node.
        reach_store: opens the process group's store, or waits until whoever has to has opened it; what it returns is
            kept as long as the membership.
    """

    def __init__(
        self, generation: Generation, local_rank: int = 0, reach_store: Callable[[Generation], object] | None = None
    ) -> None:
        self._generation = generation
        self._local_rank = local_rank
        self._reach_store = reach_store
        self._store: object | None = None
        self._entered = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> StaticMembership:
        """Read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

        Raises:
            SpecError: one of them is missing or makes no sense.
        """
        world = _whole(environ, "WORLD_SIZE", "1")
        rank = _whole(environ, "RANK", "0")
        local_rank = _whole(environ, "LOCAL_RANK", "0")
        if not rank < world:
            raise SpecError(f"RANK is {rank}, but WORLD_SIZE is {world}.")
        members = tuple(f"rank-{number}" for number in range(world))
        if world == 1:
            return cls(Generation(1, 0, 1, members, "", 0), local_rank)
        host, port = environ.get("MASTER_ADDR", ""), _whole(environ, "MASTER_PORT", "0")
        if not host or not 0 < port < 65536:
            raise SpecError("WORLD_SIZE asks for several processes, but MASTER_ADDR and MASTER_PORT are not both set.")
        # torchrun may host the store itself; its workers then are all clients.
        hosts = rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        return cls(Generation(1, rank, world, members, host, port), local_rank, _open_store if hosts else await_store)

    @property
    def running(self) -> bool:
        """See `Membership.running`: nobody can join a fixed group that trains."""
        return False

    @property
    def local_rank(self) -> int:
        """See `Membership.local_rank`."""
        return self._local_rank

    def next(self) -> Generation:
        """The one generation.

        Raises:
            TryAgainError: asked again, because a peer was lost; or the store does not listen.
        """
        if self._entered:
            raise TryAgainError(
                "A peer was lost, and this group cannot form again.", hint="Run the same command again."
            )
        self._entered = True
        if self._reach_store is not None:
            self._store = self._reach_store(self._generation)
        return self._generation

    def changed(self) -> bool:
        """See `Membership.changed`: never."""
        return False

    def leave(self) -> None:
        """See `Membership.leave`: nobody has to be told."""

    def close(self, code: int) -> None:
        """See `Membership.close`: the exit code of this process says it."""


def _open_store(generation: Generation) -> object:
    from clip_trainer.elastic.process_group import open_store

    return open_store(generation.port)[0]


def await_store(
    generation: Generation,
    connect: Callable[[tuple[str, int], float], AbstractContextManager[object]] = socket.create_connection,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the store listens: ranks of a fixed group start in any order, and rank 0 may be slow.

    Raises:
        TryAgainError: it does not within 5 minutes.
    """
    deadline = clock() + STORE_SECONDS
    while True:
        try:
            with connect((generation.host, generation.port), _CONNECT_SECONDS):
                return
        except OSError as error:
            if clock() > deadline:
                where = f"{generation.host}:{generation.port}"
                raise TryAgainError(f"Rank 0 did not open the process group's store at {where}: {error}.") from error
        pause(_PAUSE_SECONDS)


def _whole(environ: Mapping[str, str], name: str, default: str) -> int:
    text = environ.get(name) or default
    if not text.isdigit():
        raise SpecError(f"{name} is {text!r}; it must be a whole number of at least 0.")
    return int(text)
