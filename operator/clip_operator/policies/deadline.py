"""A run may take only so long, counted from its first submission; training-operator does not enforce it."""

from __future__ import annotations

from clip_operator.decisions import Action, Requeue, end_run
from clip_operator.world import World
from clipctl.contract import names


def decide(world: World, now: float) -> list[Action] | None:
    """End the run when its time is up."""
    left = seconds_left(world, now)
    if left is None or left > 0:
        return None
    limit = world.newest.retry.deadline_seconds
    message = f"retry.deadline_seconds ({limit:.0f}) have passed since the run was submitted."
    return end_run(world, now, names.STATE_FAILED, names.REASON_DEADLINE, message)


def wake(world: World, now: float) -> list[Action]:
    """Look again when the deadline passes: no event of Kubernetes marks that moment."""
    left = seconds_left(world, now)
    return [] if left is None else [Requeue(max(left, 0.0))]


def seconds_left(world: World, now: float) -> float | None:
    """Seconds to the deadline; None if the run has none."""
    limit = world.newest.retry.deadline_seconds
    return None if limit is None else world.first_created_at + limit - now
