"""The training loop, top to bottom: the steps of one generation of the worker group.

Position in the data, learning rate and loss depend on the step alone, never on the number of ranks or on what died on
the way; so this loop can stop after any step and go on with other ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from clip_trainer.data.loading.batch import Batch
from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.eval.in_training import Evaluation
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.optim import learning_rate
from clip_trainer.train.batches import open_loader
from clip_trainer.train.data_record import DataRecord
from clip_trainer.train.finish import finish
from clip_trainer.train.health import Health
from clip_trainer.train.peer_memory import PeerMemory
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.recording import finite, record
from clip_trainer.train.rollback import roll_back
from clip_trainer.train.run import Run
from clip_trainer.train.saving import Saving
from clip_trainer.train.status import Rate
from clip_trainer.train.step import StepResult
from clip_trainer.train.wishes import Wishes
from clipctl.contract.errors import CorruptError, TryAgainError
from clipctl.contract.failpoints import failpoint


class RegroupError(Exception):
    """Every rank has left the group after the same step, because another one is about to form."""


def train(
    run: Run,
    notice: PreemptionNotice,
    logs: ExperimentLogs,
    changed: Callable[[], bool] = lambda: False,
    stepped: Callable[[], None] = lambda: None,
) -> None:
    """Train to the last step, then evaluate and export. Collective.

    Args:
        run: brought to the same state on every rank.
        notice: whether this process was asked to stop.
        logs: experiment logs.
        changed: whether another group wants to form.
        stepped: called when a step is recorded.

    Raises:
        RegroupError: the group changes in good order.
        TryAgainError: this rank was asked to stop; the state is saved.
        CannotCreateError: several checkpoints in a row could not be stored.
        CorruptError: too many samples are undecodable.
        DivergenceError: ranks have different weights.
        SpecError: too many steps could not be used (see `rollback`).
    """
    evaluation, saving, health, rate = Evaluation(run, logs), Saving(run), Health(run), Rate()
    memory = PeerMemory.begin(run)
    evaluate(run, evaluation)
    with open_loader(run) as loader:
        data = DataRecord(run.events, run.metrics, loader.snapshot)
        while run.state.step < run.total_steps:
            beacon().phase("data", run.state.step)
            batch = next(loader)
            assert batch.position_start == run.state.samples_consumed  # the data state is this one integer
            beacon().phase("compute", run.state.step)
            failpoint("train.before_step")
            lr = learning_rate(run.state.step, run.schedule)
            run.patch_dropout.apply(run.state.step)
            mine = replace(saving.wishes(), preempted=int(notice.received), regroup=int(changed()))

            health.before_step()
            result, seconds = do_step(run, batch, lr, mine)
            rate.add(batch.position_end - batch.position_start)
            checksum = health.checksum(saving=may_save(run, result))
            record(run, batch, result, lr, rate.per_second(), checksum)
            stepped()  # before anything collective, in which a peer may be lost: the ledger would lack the new group
            failpoint("train.recorded")
            health.after_step(checksum, seconds)
            data.step(run.state.step, batch.wait_seconds, seconds)
            logs.step(batch, result, lr, seconds)
            check_replaced(run)
            roll_back_if_exhausted(run, saving, result)
            saving.learn(result.agreed)
            if run.state.step < run.total_steps:
                must_save = keep_what_is_due(run, memory, saving, result)
                leave_if_asked(run, saving, mine, result, must_save)
                evaluate(run, evaluation)
    failpoint("train.last_step_done")
    saving.at_the_end()
    beacon().phase("finish", run.state.step)
    finish(run, evaluation)


def do_step(run: Run, batch: Batch, lr: float, mine: Wishes) -> tuple[StepResult, float]:
    """Do a step and make it part of the state; the seconds it took, with the wait for its batch. Collective."""
    started = time.monotonic()
    run.touched = True
    result = run.step(batch, lr, mine)
    seconds = time.monotonic() - started + batch.wait_seconds
    failpoint("train.stepped")
    run.state.step += 1
    run.state.samples_consumed = batch.position_end
    run.state.replaced += result.replaced
    run.state.productive_seconds += seconds
    run.state.evaluate_from = batch.position_start
    if run.trainable.average is not None and result.skipped is None:
        run.trainable.average.update(run.state.step)
    run.step.torn = False
    return result, seconds


def keep_what_is_due(run: Run, memory: PeerMemory, saving: Saving, result: StepResult) -> bool:
    """Copy the state to the memory of nodes, begin a checkpoint, or neither. Collective.

    Returns:
        Whether the checkpoint has to be stored before a rank may leave.
    """
    kept = memory.keep(result.agreed)
    must_save = saves_to_leave(run, result, kept)
    if must_save or (may_save(run, result, kept) and run.trainable.guard.in_a_row == 0):
        saving.start(finite(result.loss), after_another=bool(result.agreed.saving))
    return must_save


def may_save(run: Run, result: StepResult, kept: bool = False) -> bool:
    """Whether the step just done is one after which a checkpoint is made.

    Amid bad steps none is made, unless the run stops: the checkpoints from before them must not be pushed out by copies
    of the same weights.
    """
    regular = run.state.step % run.spec.checkpoint.every_steps == 0
    return regular or run.state.step == run.total_steps or saves_to_leave(run, result, kept)


def saves_to_leave(run: Run, result: StepResult, kept: bool = False) -> bool:
    """Whether ranks leave the group whose state must be in storage first.

    That of sharded weights must whenever the group changes, unless it was kept in memory just now: the next group finds
    it in one of these places.
    """
    return result.agreed.preempted > 0 or (result.agreed.regroup > 0 and run.sharded and not kept)


def roll_back_if_exhausted(run: Run, saving: Saving, result: StepResult) -> None:
    """Go back to a checkpoint if too many steps in a row could not be used. Collective then."""
    if result.skipped is not None and run.trainable.guard.exhausted:
        saving.finish()  # it may be the one to go back to
        run.whole = False
        roll_back(run, result.skipped)
        run.whole = True


def evaluate(run: Run, evaluation: Evaluation) -> None:
    """Evaluate what the last step made due, unless that was done. Collective.

    It is owed until it is done: after the loss of a peer, the next group does it.
    """
    if run.state.evaluate_from is not None and run.state.step < run.total_steps:
        beacon().phase("evaluate", run.state.step)
        run.checkpointer.before_update()  # the averaged weights may take the place of the others for a while
        evaluation.after_step(samples_before=run.state.evaluate_from)
    run.state.evaluate_from = None


def leave_if_asked(run: Run, saving: Saving, mine: Wishes, result: StepResult, must_save: bool) -> None:
    """Leave the group if a rank must go or another wants to form, if it `must_save`, after that. Collective.

    Raises:
        TryAgainError: it is this rank that must go; the state is saved.
        RegroupError: the others go on, in the next group.
    """
    agreed = result.agreed
    saved = saving.finish() if must_save else True
    if agreed.preempted:
        run.events.write("stopped", step=run.state.step, ranks=agreed.preempted)
        run.events.try_flush()
    if mine.preempted:
        outcome = "the state is saved" if saved else "its checkpoint could not be stored"
        raise TryAgainError(f"stopped at step {run.state.step} on request; {outcome}.")
    if agreed.preempted or agreed.regroup:
        raise RegroupError


def check_replaced(run: Run) -> None:
    """Stop when so many samples are undecodable that the data set itself must be wrong."""
    limit = max(10.0, run.spec.data.max_replaced * run.state.samples_consumed)
    if run.state.replaced > limit:
        raise CorruptError(
            f"{run.state.replaced} of {run.state.samples_consumed} samples could not be decoded.",
            hint="Look at the `replaced` events, repair the data, or raise data.max_replaced.",
        )
