"""Going back to a checkpoint when too many steps in a row were bad.

Weights, optimiser, average and loss scale go back; step number, learning rate and position in the data go on. So the
stretch of data on which training went wrong is left behind, and the ledger still has every step and every sample once.
All of it follows from the state of the run and its regular checkpoints: after a crash it happens again in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_trainer.checkpoint.restore import Restored
from clipctl.contract.errors import SpecError

if TYPE_CHECKING:
    from clip_trainer.train.run import Run

_HINT = "Lower train.learning_rate, lengthen train.warmup_steps, or set train.grad_clip_norm; look at the data there."


def roll_back(run: Run, reason: str) -> None:
    """Return to the newest verified checkpoint from before the bad steps; next time to one before that. Collective.

    Args:
        run: the run, after its last step was bad.
        reason: what was wrong with that step.

    Raises:
        SpecError: there were too many returns, or there is no checkpoint to return to.
    """
    guard = run.trainable.guard
    count, rollbacks, skipped = guard.in_a_row, guard.rollbacks + 1, guard.skipped
    problem = f"{count} steps in a row until step {run.state.step} could not be used, at last because {reason}."
    if not guard.may_roll_back:
        raise SpecError(f"{problem} The run went back {guard.rollbacks} times in vain.", hint=_HINT)
    found = _restore(run, run.state.step - count + 1)
    if found is None:
        raise SpecError(f"{problem} There is no checkpoint to go back to.", hint=_HINT)
    guard.rolled_back(found.checkpoint.step, run.state.step, rollbacks, skipped)
    run.checkpointer.continue_from(found.checkpoint)
    run.events.announce(
        "rollback",
        f"{problem} The weights go back to checkpoint {found.checkpoint}; the data goes on.",
        step=run.state.step,
        checkpoint=str(found.checkpoint),
        rollbacks=rollbacks,
    )


def _restore(run: Run, first_bad: int) -> Restored | None:
    """Restore from before the bad steps, and from before the last target if nothing was saved since that return."""
    target, since = run.trainable.guard.target, run.trainable.guard.since  # restoring changes them
    found = _newest(run, first_bad)
    if found is None or target is None or found.checkpoint.step > since:
        return found
    return _newest(run, target) or _newest(run, target + 1) or _newest(run, first_bad)


def _newest(run: Run, before: int) -> Restored | None:
    """Restore from before a step; rather from a regular checkpoint, which the run has whether it was stopped or not."""
    every = run.spec.checkpoint.every_steps
    return run.restore(lambda c: c.step < before and c.step % every == 0) or run.restore(lambda c: c.step < before)
