"""Incarnation numbers: each start of the worker group gets the next one, given out by the storage itself.

The number is part of every checkpoint path, so nothing that is stored is ever written twice; and it fences: a group
that is not the newest any more must not commit. torchrun's restart count cannot serve, it differs between ranks.
"""

from __future__ import annotations

from clipctl.contract import layout
from clipctl.contract.digest import canonical_json
from clipctl.contract.errors import TryAgainError
from clipctl.contract.store import ObjectStore


def newest_incarnation(store: ObjectStore) -> int:
    """The highest number given out so far; 0 if there is none."""
    numbers = (layout.parse_incarnation_key(info.key) for info in store.list(layout.INCARNATIONS))
    return max((number for number in numbers if number is not None), default=0)


def allocate(store: ObjectStore, *, attempt: int, world: int, now: float) -> int:
    """Take the next number, by create-if-absent: of several contenders exactly one gets it."""
    number = newest_incarnation(store) + 1
    record = canonical_json({"attempt": attempt, "world": world, "created_at": now})
    while not store.create(layout.incarnation_key(number), record):
        number += 1
    return number


def check_fence(store: ObjectStore, incarnation: int) -> None:
    """Raise `TryAgainError` if a newer worker group has taken over the run."""
    newest = newest_incarnation(store)
    if newest > incarnation:
        raise TryAgainError(f"incarnation {incarnation} is fenced off: incarnation {newest} owns the run now.")
