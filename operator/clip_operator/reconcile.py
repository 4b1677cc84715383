"""`decide`: from a snapshot and the time to a list of actions. Pure, so every rule is testable without a cluster."""

from __future__ import annotations

from clip_operator.decisions import Action
from clip_operator.policies import deadline, finish, permanent, progress, resume, stop, stuck_pods
from clip_operator.world import World
from clipctl.contract import names

# The first policy that answers decides. The order matters: an outcome beats a wish, a wish beats an error, an error
# that cannot be mended beats the clock, and only then a failure is a reason to try again.
_CHAIN = (finish.decide, stop.decide, permanent.decide, deadline.decide, resume.decide, progress.decide)


def decide(world: World, now: float) -> list[Action]:
    """What to do about one run at Unix time `now`; the same world always gives the same answer."""
    if not world.jobs or world.newest.deleting or withdrawn(world):
        return []
    always = stuck_pods.decide(world, now)
    for policy in _CHAIN:
        actions = policy(world, now)
        if actions is not None:
            return [*always, *actions]
    raise AssertionError("progress answers always")


def withdrawn(world: World) -> bool:
    """Whether somebody deleted the newest attempt: what is left had a successor, which must not be made again."""
    return names.ANNOTATION_SUPERSEDED_BY in world.newest.annotations
