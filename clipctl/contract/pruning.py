"""Deleting checkpoints, and finding what nobody will ever read: the rests of saves that were not committed.

An orphan is an object below `checkpoints/` whose checkpoint has no commit record and whose incarnation was fenced off
long enough ago: its successor's record tells since when. The newest incarnation may still be uploading; one that was
fenced off a moment ago may be about to create its commit record. Objects are listed before the commits, so that what is
committed in the meantime is not taken for an orphan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from clipctl.contract import layout
from clipctl.contract.commits import Rejection, latest_target, list_checkpoints, verify
from clipctl.contract.errors import CorruptError, MissingError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import CheckpointId
from clipctl.contract.retention import MINIMUM_VERIFIED, Candidate, KeepPolicy, expendable, kept
from clipctl.contract.store import ObjectInfo, ObjectStore, Unfinished

__all__ = ["ORPHAN_SECONDS", "Pruning", "apply", "delete_checkpoint", "find_orphans", "latest_target", "plan"]

ORPHAN_SECONDS = 3600.0


@dataclass(frozen=True)
class Pruning:
    """What is to go, and what stays.

    Attributes:
        keep: committed checkpoints that stay, oldest first.
        delete: those that go, oldest first.
        orphans: objects of saves that were never committed.
        unfinished: what interrupted writers left.
    """

    keep: tuple[CheckpointId, ...]
    delete: tuple[CheckpointId, ...]
    orphans: tuple[ObjectInfo, ...]
    unfinished: tuple[Unfinished, ...]


def plan(
    store: ObjectStore,
    policy: KeepPolicy,
    checkpoints: list[Candidate],
    now: float,
    on_reject: Callable[[Rejection], None],
    orphan_seconds: float = ORPHAN_SECONDS,
) -> Pruning:
    """Decide what may go; two of those that stay are read back first.

    Args:
        store: the run's store.
        policy: what to keep.
        checkpoints: all committed ones.
        now: seconds since the epoch.
        on_reject: called for each damaged one that was met.
        orphan_seconds: how long ago an incarnation must have been fenced off, and an upload begun.
    """
    latest = latest_target(store)
    verified = _two_intact(store, kept(policy, checkpoints, latest), [c.id for c in checkpoints], on_reject)
    delete = expendable(policy, checkpoints, verified, latest)
    return Pruning(
        tuple(sorted({c.id for c in checkpoints} - set(delete))),
        tuple(delete),
        tuple(find_orphans(store, now - orphan_seconds)),
        tuple(item for item in store.unfinished("") if item.begun_at <= now - orphan_seconds),
    )


def apply(store: ObjectStore, pruning: Pruning) -> None:
    """Delete what the plan says."""
    for checkpoint in pruning.delete:
        delete_checkpoint(store, checkpoint)
    for info in pruning.orphans:
        store.delete(info.key)
    for unfinished in pruning.unfinished:
        store.discard(unfinished)


def find_orphans(store: ObjectStore, fenced_before: float) -> list[ObjectInfo]:
    """Objects (and claims, see `store_unconditional`) of incarnations that were fenced off before that time."""
    fenced = {number for number, since in _fenced_since(store).items() if since <= fenced_before}
    found = [*store.list(layout.CHECKPOINTS), *store.list(layout.CLAIMS)]
    committed = {layout.checkpoint_prefix(checkpoint) for checkpoint in list_checkpoints(store)}
    return [
        info
        for info in found
        if layout.incarnation_of(info.key) in fenced and not any(map(info.key.startswith, committed))
    ]


def delete_checkpoint(store: ObjectStore, checkpoint: CheckpointId) -> None:
    """Remove the commit record first, so that no reader sees a checkpoint that is half gone; then its objects."""
    failpoint("checkpoint.expire")
    store.delete(layout.commit_key(checkpoint))
    for info in store.list(layout.checkpoint_prefix(checkpoint)):
        failpoint("checkpoint.expire_object")
        store.delete(info.key)


def _two_intact(
    store: ObjectStore,
    wanted: set[CheckpointId],
    every: Iterable[CheckpointId],
    on_reject: Callable[[Rejection], None],
) -> set[CheckpointId]:
    """Two that verify, those that stay anyway first, the newest first; fewer if there are no more."""
    verified: set[CheckpointId] = set()
    for checkpoint in sorted(every, key=lambda c: (c in wanted, c), reverse=True):
        if len(verified) == MINIMUM_VERIFIED:
            break
        try:
            verify(store, checkpoint)
        except (CorruptError, MissingError) as error:
            on_reject(Rejection(checkpoint, error.problem))
        else:
            verified.add(checkpoint)
    return verified


def _fenced_since(store: ObjectStore) -> dict[int, float]:
    """When each incarnation but the newest was fenced off; without those whose successor's record is unreadable."""
    numbers = sorted(filter(None, (layout.parse_incarnation_key(i.key) for i in store.list(layout.INCARNATIONS))))
    pairs = ((number, _created_at(store, after)) for number, after in pairwise(numbers))
    return {number: since for number, since in pairs if since is not None}


def _created_at(store: ObjectStore, incarnation: int) -> float | None:
    try:
        raw = json.loads(store.read(layout.incarnation_key(incarnation)))
        return float(raw["created_at"])
    except (MissingError, ValueError, KeyError, TypeError, RecursionError):
        return None
