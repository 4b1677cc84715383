"""A membership that never changes: torchrun's `env://` variables, or one process alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clip_trainer.elastic.membership import Generation
from clipctl.contract.errors import SpecError, TryAgainError


class StaticMembership:
    """`Membership` with exactly one generation.

    Args:
        generation: that one.
        local_rank: the number of this process on its node.
        host_store: opens the process group's store on `generation.port`, if this process has to; what it returns is
            kept as long as the membership.
    """

    def __init__(
        self, generation: Generation, local_rank: int = 0, host_store: Callable[[int], object] | None = None
    ) -> None:
        self._generation = generation
        self._local_rank = local_rank
        self._host_store = host_store
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
        return cls(Generation(1, rank, world, members, host, port), local_rank, _open_store if hosts else None)

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
            TryAgainError: asked again; a peer was lost.
        """
        if self._entered:
            raise TryAgainError(
                "A peer was lost, and this group cannot form again.", hint="Run the same command again."
            )
        self._entered = True
        if self._host_store is not None:
            self._store = self._host_store(self._generation.port)
        return self._generation

    def changed(self) -> bool:
        """See `Membership.changed`: never."""
        return False

    def leave(self) -> None:
        """See `Membership.leave`: nobody has to be told."""

    def close(self, code: int) -> None:
        """See `Membership.close`: the exit code of this process says it."""


def _open_store(port: int) -> object:
    from clip_trainer.elastic.process_group import open_store

    return open_store(port)[0]


def _whole(environ: Mapping[str, str], name: str, default: str) -> int:
    text = environ.get(name) or default
    if not text.isdigit():
        raise SpecError(f"{name} is {text!r}; it must be a whole number of at least 0.")
    return int(text)
