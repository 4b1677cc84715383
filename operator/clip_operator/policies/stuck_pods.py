"""A pod that cannot confirm its end because its node is lost blocks its replacement for ever; remove it by force."""

from __future__ import annotations

from clip_operator.decisions import Action, ForceDeletePod, Requeue
from clip_operator.world import World

SLACK_SECONDS = 30.0
"""Time after the promised end of a pod before it counts as stuck."""


def decide(world: World, now: float) -> list[Action]:
    """Force-delete overdue pods, but only on nodes known to be lost: elsewhere the trainer may still be writing."""
    actions: list[Action] = []
    for pod in world.pods:
        if pod.deletion_due is None or pod.gone:
            continue
        left = pod.deletion_due + SLACK_SECONDS - now
        if left > 0:
            actions.append(Requeue(left))
        elif pod.node_lost:
            actions.append(ForceDeletePod(pod))
        else:
            actions.append(Requeue(SLACK_SECONDS))
    return actions
