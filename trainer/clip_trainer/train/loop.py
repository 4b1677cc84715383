"""The training loop, top to bottom.

Position in the data, learning rate and loss depend on the step alone, never on the number of ranks or on what died on
the way; so this loop can stop after any step and go on elsewhere.
"""

from __future__ import annotations

import math
import time
from contextlib import closing

from clip_trainer.elastic.progress import report_progress
from clip_trainer.eval.in_training import Evaluation
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.model.interchange import open_clip_config
from clip_trainer.optim import learning_rate
from clip_trainer.train.batches import open_loader
from clip_trainer.train.data_record import DataRecord
from clip_trainer.train.finish import finish
from clip_trainer.train.openclip_state import description
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.recording import record
from clip_trainer.train.rollback import roll_back
from clip_trainer.train.run import Run
from clip_trainer.train.status import Rate
from clip_trainer.train.step import StepResult
from clipctl.contract import metric_names
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    PermissionDeniedError,
    TryAgainError,
    UnavailableError,
)

STORAGE_FAILURES = (CannotCreateError, UnavailableError, PermissionDeniedError)
MAX_FAILED_SAVES = 3  # a full disk may be cleaned up in time; losing more work than this is worse than stopping


def train(run: Run, notice: PreemptionNotice) -> None:
    """Train to the last step, then evaluate and export. Collective.

    Raises:
        TryAgainError: a rank was asked to stop; the state is saved.
        CannotCreateError: several checkpoints in a row could not be stored.
        CorruptError: too many samples are undecodable.
        SpecError: too many steps could not be used (see `rollback`).
    """
    with closing(ExperimentLogs(run)) as logs:
        _train(run, notice, Evaluation(run, logs), logs)


def _train(run: Run, notice: PreemptionNotice, evaluation: Evaluation, logs: ExperimentLogs) -> None:
    guard, average = run.trainable.guard, run.trainable.average
    failed_saves = 0
    rate = Rate()
    with open_loader(run) as loader:
        data = DataRecord(run.events, run.metrics, loader.snapshot)
        while run.state.step < run.total_steps:
            batch = next(loader)
            assert batch.position_start == run.state.samples_consumed  # the data state is this one integer
            lr = learning_rate(run.state.step, run.schedule)
            run.patch_dropout.apply(run.state.step)

            started = time.monotonic()
            result = run.step(batch, lr, notice.received)
            seconds = time.monotonic() - started + batch.wait_seconds

            run.state.step += 1
            run.state.samples_consumed = batch.position_end
            run.state.replaced += result.replaced
            run.state.productive_seconds += seconds
            rate.add(batch.position_end - batch.position_start)
            if average is not None and result.skipped is None:
                average.update(run.state.step)

            record(run, batch, result, lr, rate.per_second())
            data.step(run.state.step, batch.wait_seconds, seconds)
            logs.step(batch, result, lr, seconds)
            check_replaced(run)
            if result.skipped is not None and guard.exhausted:
                roll_back(run, result.skipped)

            last = run.state.step == run.total_steps
            # Not amid bad steps: the checkpoints from before them must not be pushed out by copies of the same weights.
            due = run.state.step % run.spec.checkpoint.every_steps == 0 and guard.in_a_row == 0
            if due or last or result.preempted:
                failed_saves = 0 if save(run, result) else failed_saves + 1
            if failed_saves >= MAX_FAILED_SAVES or (failed_saves and last):
                raise CannotCreateError(
                    f"the last {failed_saves} checkpoints could not be stored.",
                    hint="Free space or repair access at checkpoint.path, then submit again; older ones are intact.",
                )
            if result.preempted and not last:
                run.events.write("stopped", step=run.state.step)
                run.events.try_flush()
                outcome = "the state is saved" if not failed_saves else "its checkpoint could not be stored"
                raise TryAgainError(f"stopped at step {run.state.step} on request; {outcome}.")
            if not last:
                evaluation.after_step(samples_before=batch.position_start)
    finish(run, evaluation)


def save(run: Run, result: StepResult) -> bool:
    """Write a checkpoint; False if it could not be stored, which is reported and does not stop the run by itself."""
    started = time.monotonic()
    parts, trained = run.trainable.collect()
    state = {
        "train": run.state.to_json(),
        "model": run.spec.model.name,
        "open_clip_config": open_clip_config(run.model.config, run.transforms.preprocess),
        "total_steps": run.total_steps,
        "run": run.spec.name,
        **description(run.trainable, run.state.samples_consumed / run.epoch_samples),
        **trained,
    }
    metrics = {"loss": result.loss} if math.isfinite(result.loss) else {}
    try:
        run.group.on_first(run.events.flush)  # the ledger of a committed step is never missing
        checkpoint = run.checkpointer.save(run.state.step, run.state.samples_consumed, parts, state, metrics)
    except STORAGE_FAILURES as error:
        run.metrics[metric_names.TRAIN_CHECKPOINT_FAILURES].inc()
        run.events.announce("checkpoint_failed", str(error), step=run.state.step)
        return False
    seconds = time.monotonic() - started
    run.metrics[metric_names.TRAIN_CHECKPOINT_SECONDS].observe(seconds)
    run.metrics[metric_names.TRAIN_CHECKPOINT_STEP].set(run.state.step)
    run.events.write("checkpoint", checkpoint=str(checkpoint), step=run.state.step, seconds=round(seconds, 3))
    report_progress(run.state.step)
    return True


def check_replaced(run: Run) -> None:
    """Stop when so many samples are undecodable that the data set itself must be wrong."""
    limit = max(10.0, run.spec.data.max_replaced * run.state.samples_consumed)
    if run.state.replaced > limit:
        raise CorruptError(
            f"{run.state.replaced} of {run.state.samples_consumed} samples could not be decoded.",
            hint="Look at the `replaced` events, repair the data, or raise data.max_replaced.",
        )
