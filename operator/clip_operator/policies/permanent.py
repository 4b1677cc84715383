"""Errors that running again cannot mend end the run at once, so that its devices are free for others."""

from __future__ import annotations

from clip_operator.causes import Failure, worst
from clip_operator.decisions import Action, end_run
from clip_operator.world import World
from clipctl.contract import names


def decide(world: World, now: float) -> list[Action] | None:
    """End the run if a worker of the newest attempt exited with a permanent code."""
    failure = permanent_failure(world)
    if failure is None:
        return None
    message = f"{failure.message} (cause {failure.cause}; not retried, because trying again cannot help)"
    return end_run(world, now, names.STATE_FAILED, names.REASON_USER_ERROR, message)


def permanent_failure(world: World) -> Failure | None:
    """The permanent failure the pods of the newest attempt tell of, or the recorded one."""
    seen = [failure for pod in world.pods_of(world.newest.attempt) for failure in pod.failures]
    recorded = world.newest.last_failure
    return worst(f for f in (*seen, *([recorded] if recorded else ())) if f.permanent)
