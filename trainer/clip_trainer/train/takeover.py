"""A new rank 0 takes over the run's storage: its ledger begins where the checkpoints end.

Its predecessor may have died with steps that it had not stored. Every rank remembers them, so the new rank 0 stores
them again under its own incarnation, marked as copies: the trajectory in storage has every step once.
"""

from __future__ import annotations

from clip_trainer.elastic.progress import report_progress
from clip_trainer.train.run import Run
from clipctl.contract import metric_names
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.failpoints import failpoint


def take_over(run: Run, predecessor: int) -> None:
    """Write the ledger on, where that of the incarnation `predecessor` is known to end. Collective."""
    begun = int(run.group.on_first(lambda: _stored(run, predecessor)))
    run.events.forget(begun)
    run.events.write(
        "started",
        step=begun,
        samples_consumed=begun * run.spec.train.global_batch,
        world=run.group.world,
        attempt=run.config.attempt,
        resumed_from=None,
        taken_over=True,
    )
    failpoint("train.taking_over")
    copy_steps(run, begun)
    if run.group.is_first:
        run.events.tell("taken_over", _sentence(run, "goes on"), step=run.state.step)
    show(run)


def copy_steps(run: Run, after: int) -> None:
    """Write the remembered steps after step `after`, which others have done, into this rank's ledger."""
    for fields in run.events.remembered(after):
        run.events.write("step", **{**fields, "copy": True})


def announce(run: Run, source: str, resumed_from: str | None) -> None:
    """Say that an incarnation begins with a state from storage, or from the beginning."""
    run.events.announce(
        "started",
        _sentence(run, source),
        step=run.state.step,
        samples_consumed=run.state.samples_consumed,
        world=run.group.world,
        attempt=run.config.attempt,
        resumed_from=resumed_from,
    )
    report_progress(run.state.step)
    show(run)


def show(run: Run) -> None:
    """Bring the metrics up to date with the group."""
    run.metrics[metric_names.TRAIN_WORLD_SIZE].set(run.group.world)
    run.metrics[metric_names.TRAIN_TOTAL_STEPS].set(run.total_steps)
    run.metrics[metric_names.TRAIN_STEP].set(run.state.step)


def _stored(run: Run, predecessor: int) -> int:
    """The newest step whose event is surely stored: it is, before a checkpoint is committed.

    Only the predecessor's commits count. One of an older incarnation may have been rejected, and its steps done again.
    """
    remembered = run.events.remembered(-1)
    before = remembered[0]["step"] - 1 if remembered else run.state.step
    own = [checkpoint.step for checkpoint in list_checkpoints(run.store) if checkpoint.incarnation == predecessor]
    return max([before, *(step for step in own if step <= run.state.step)])


def _sentence(run: Run, source: str) -> str:
    return (
        f"{run.spec.name}: {source}; step {run.state.step} of {run.total_steps}, {run.group.world} ranks, "
        f"incarnation {run.incarnation}"
    )
