"""Finished runs leave the cluster after their time to live; their storage stays."""

from __future__ import annotations

from clip_operator.decisions import Action, DeleteRun, Emit, Requeue
from clip_operator.moments import parse_time
from clip_operator.world import World
from clipctl.contract import names


def decide(world: World, now: float) -> list[Action]:
    """Delete a finished run whose time has come; else look again at that time."""
    job = world.newest
    ttl = job.retry.ttl_seconds
    if ttl is None:
        return []
    finished = parse_time(job.annotations.get(names.ANNOTATION_FINISHED_AT))
    left = (job.ended_at if finished is None else finished) + ttl - now
    if left > 0:
        return [Requeue(left)]
    message = f"retry.ttl_seconds ({ttl}) have passed since the run ended; its storage is kept."
    return [Emit(job, "Normal", names.REASON_EXPIRED, message), DeleteRun(world.jobs)]
