"""A run the user has stopped stays stopped: suspended, without devices, and not a failure."""

from __future__ import annotations

from clip_operator.decisions import Action, annotate, scale_rendezvous
from clip_operator.world import World
from clipctl.contract import names


def decide(world: World, now: float) -> list[Action] | None:
    """Suspend the job if `stopped-by` is set and it is not suspended yet; make no new attempt."""
    job = world.newest
    who = job.annotations.get(names.ANNOTATION_STOPPED_BY)
    if not who:
        return None
    wanted = {
        names.ANNOTATION_STATE: names.STATE_STOPPED,
        names.ANNOTATION_REASON: "Stopped",
        names.ANNOTATION_MESSAGE: f"stopped by {who}; submit the same file again to continue",
    }
    run_policy = None if job.suspended or job.over else {"suspend": True}
    return [*annotate(job, wanted, run_policy), *scale_rendezvous(world, 0)]
