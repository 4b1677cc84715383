"""How rank 0 learns through storage that the shares of all ranks are stored.

A share must consist of exactly the objects that its rank has to store. That a rank *cannot* store its share is not told
here, for storage is what fails it: the ranks learn it from each other at the end of a step, and abandon the save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clipctl.contract import layout
from clipctl.contract.commits import StoredObject
from clipctl.contract.errors import CorruptError, MissingError, UnavailableError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.share import Share
from clipctl.contract.store import ObjectStore

DEADLINE_SECONDS = 600.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True)
class Patience:
    """How to wait for the others.

    Attributes:
        clock: seconds, never going back.
        pause: waits that many seconds; raises to stop waiting.
        deadline: seconds after which the missing ones are given up.
    """

    clock: Callable[[], float]
    pause: Callable[[float], None]
    deadline: float = DEADLINE_SECONDS


def gather(
    store: ObjectStore,
    own: Share,
    expected: Sequence[Mapping[str, int]],
    patience: Patience,
) -> list[StoredObject]:
    """The objects of all ranks, in rank order, when the last one has stored its share.

    Args:
        store: the run's store.
        own: the share of rank 0.
        expected: by rank, size of each object by its name.
        patience: how to wait.

    Raises:
        UnavailableError: some are still missing at the deadline.
    """
    checkpoint, world = own.checkpoint, own.world
    found: dict[int, tuple[StoredObject, ...]] = {0: own.objects}
    until, pause = patience.clock() + patience.deadline, _FIRST_PAUSE
    while True:
        before = len(found)
        missing = [rank for rank in range(world) if rank not in found]
        keys = {info.key for info in store.list(layout.checkpoint_prefix(checkpoint))} if missing else set()
        for rank in missing:
            if layout.share_key(checkpoint, rank, world) in keys:
                share = _read(store, checkpoint, rank, world, expected[rank])
                if share is not None:
                    found[rank] = share.objects
        if len(found) == world:
            return [stored for rank in range(world) for stored in found[rank]]
        if patience.clock() >= until:
            names = ", ".join(str(rank) for rank in range(world) if rank not in found)
            raise UnavailableError(f"no word of the share of rank {names} within {patience.deadline:.0f} s.")
        pause = _FIRST_PAUSE if len(found) > before else min(2 * pause, _LONGEST_PAUSE)
        patience.pause(pause)


def _read(
    store: ObjectStore, checkpoint: CheckpointId, rank: int, world: int, expected: Mapping[str, int]
) -> Share | None:
    """The share of a rank; None if it is another group's, or not whole yet."""
    try:
        share = Share.from_bytes(store.read(layout.share_key(checkpoint, rank, world)))
    except (MissingError, CorruptError):
        return None
    fits = (share.checkpoint, share.rank, share.world) == (checkpoint, rank, world)
    return share if fits and {stored.name: stored.size for stored in share.objects} == dict(expected) else None
