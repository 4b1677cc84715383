"""Which checkpoints to keep: a pure policy, for the trainer after each commit and for `clipctl checkpoints prune`.

Every checkpoint holds the whole state, so none needs its parent; what must stay is what the policy names, where LATEST
points (after a roll-back that is not the one with the highest step), and two that were read back and found intact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipctl.contract.layout import CheckpointId

MINIMUM_VERIFIED = 2
"""So many intact checkpoints remain whatever the policy says, so that damage to one never costs the run."""


@dataclass(frozen=True)
class KeepPolicy:
    """What to keep; a checkpoint stays if any rule wants it.

    Attributes:
        last: so many of the newest.
        every: all whose step is a multiple of this; None for no such rule.
        best: so many with the lowest loss.
    """

    last: int = 3
    every: int | None = None
    best: int = 0


@dataclass(frozen=True)
class Candidate:
    """A committed checkpoint as far as a policy looks at it; `loss` is None if none was recorded."""

    id: CheckpointId
    loss: float | None = None


def kept(policy: KeepPolicy, checkpoints: Sequence[Candidate], latest: CheckpointId | None = None) -> set[CheckpointId]:
    """Those that a rule wants.

    Args:
        policy: the rules.
        checkpoints: all committed ones, in any order.
        latest: where LATEST points, if it does.
    """
    ordered = sorted(checkpoint.id for checkpoint in checkpoints)
    wanted = set(ordered[-policy.last :])
    if policy.every is not None:
        wanted |= {checkpoint for checkpoint in ordered if checkpoint.step % policy.every == 0}
    if policy.best:
        wanted |= set(by_loss(checkpoints)[: policy.best])
    return wanted | {checkpoint for checkpoint in ordered if checkpoint == latest}


def expendable(
    policy: KeepPolicy,
    checkpoints: Sequence[Candidate],
    verified: Iterable[CheckpointId],
    latest: CheckpointId | None = None,
) -> list[CheckpointId]:
    """Checkpoints that may be deleted, oldest first; none unless two of those that stay are verified.

    If fewer than two of those the policy keeps are verified, the newest verified others stay as well.

    Args:
        policy: the rules.
        checkpoints: all committed ones, in any order.
        verified: those known to be intact.
        latest: where LATEST points, if it does.
    """
    intact = {checkpoint.id for checkpoint in checkpoints} & set(verified)
    stay = kept(policy, checkpoints, latest)
    spare = sorted(intact - stay, reverse=True)
    stay |= set(spare[: max(0, MINIMUM_VERIFIED - len(stay & intact))])
    if len(stay & intact) < MINIMUM_VERIFIED:
        return []
    return sorted({checkpoint.id for checkpoint in checkpoints} - stay)


def by_loss(checkpoints: Iterable[Candidate]) -> list[CheckpointId]:
    """Those with a finite loss, lowest first, the newer of equals first."""
    known = [c for c in checkpoints if c.loss is not None and math.isfinite(c.loss)]
    newest_first = sorted(known, key=lambda c: c.id, reverse=True)
    return [c.id for c in sorted(newest_first, key=lambda c: c.loss or 0.0)]
