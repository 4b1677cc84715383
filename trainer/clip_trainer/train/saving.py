"""Checkpoints of a run, seen from the loop: begin one, learn later what became of it, and know when to give up."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from clip_trainer.checkpoint.incarnation import check_fence
from clip_trainer.checkpoint.save import Saved
from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.elastic.progress import report_progress
from clip_trainer.model.interchange import open_clip_config
from clip_trainer.train.openclip_state import description
from clip_trainer.train.run import Run
from clip_trainer.train.wishes import Wishes
from clipctl.contract import metric_names
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.errors import CannotCreateError, PermissionDeniedError, UnavailableError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.redact import redact

STORAGE_FAILURES = (CannotCreateError, UnavailableError, PermissionDeniedError)
MAX_FAILED_SAVES = 3
"""A full disk may be cleaned up in time; losing more work than this is worse than stopping."""
_LOOK_SECONDS = 0.1


class Saving:
    """The saves of one generation. All ranks begin them after the same steps; only rank 0 learns of the commit.

    Args:
        run: what is saved.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._failed = 0
        self._committed = 0
        self._share_failed = False
        self._has_room = False

    def wishes(self) -> Wishes:
        """What the other ranks must know: what was committed, how many saves in a row failed, whether a share did."""
        busy = int(self._run.checkpointer.busy)  # asked first: a save that ends in between would be neither
        self._collect()
        share_failed, self._share_failed = int(self._share_failed), False
        if not self._run.group.is_first:
            return Wishes(saving=busy, failed_shares=share_failed)
        return Wishes(saving=busy, saved=self._committed, failed_saves=self._failed)

    def learn(self, agreed: Wishes) -> None:
        """Note what the others have told, after each step.

        Raises:
            CannotCreateError: several saves in a row have failed; on every rank.
        """
        self._make_room()
        if agreed.saved:
            report_progress(agreed.saved)
            self._run.events.forget(agreed.saved)
            if not self._run.group.is_first:  # which knows by itself
                self._run.checkpointer.continue_from(CheckpointId(agreed.saved, self._run.incarnation))
        if agreed.failed_shares and self._run.group.is_first:
            self._run.checkpointer.abandon()
            self._count_failure("another rank could not store its share of the checkpoint.", self._run.state.step)
        if agreed.failed_saves >= MAX_FAILED_SAVES:
            raise given_up(agreed.failed_saves)

    def start(self, loss: float | None, *, after_another: bool = False) -> None:
        """Begin the checkpoint of the step just done; its tensors are copied beside the next step. Collective.

        Args:
            loss: of that step, for the record; None if it was not finite.
            after_another: some rank's save is still in flight; storage is slower than training, which has to wait.
        """
        run, started = self._run, time.monotonic()
        beacon().phase("save", run.state.step)
        if after_another:
            self.finish()
        parts, trained = run.trainable.collect()
        state: dict[str, Any] = {
            "train": run.state.to_json(),
            "model": run.spec.model.name,
            "open_clip_config": open_clip_config(run.model.config, run.transforms.preprocess),
            "total_steps": run.total_steps,
            "run": run.spec.name,
            **description(run.trainable, run.state.samples_consumed / run.epoch_samples),
            **trained,
        }
        metrics = {} if loss is None else {"loss": loss}
        run.checkpointer.begin(run.state.step, run.state.samples_consumed, parts, state, metrics)
        run.metrics[metric_names.TRAIN_CHECKPOINT_STALL].observe(time.monotonic() - started)

    def at_the_end(self) -> None:
        """See that there is a checkpoint of the last step, which a lost peer may have prevented. Collective.

        Raises:
            CannotCreateError: it could not be stored.
            TryAgainError: others own the run by now; results and export are theirs to write.
        """
        run = self._run
        wanted = CheckpointId(run.state.step, run.incarnation)

        def is_missing() -> bool:
            check_fence(run.store, run.incarnation)
            return wanted.step > max((found.step for found in list_checkpoints(run.store)), default=-1)

        if run.group.on_first(is_missing):
            steps = run.events.remembered(wanted.step - 1)
            self.start(steps[0]["loss"] if steps else None, after_another=True)
        if not self.finish():
            raise given_up(1)

    def finish(self) -> bool:
        """Wait for the save in flight; whether the newest one is committed. Collective."""
        beacon().phase("save", self._run.state.step)
        self._run.checkpointer.before_update()
        while True:
            busy = not self._run.checkpointer.wait(_LOOK_SECONDS)
            numbers = torch.tensor([int(busy), *self.wishes().numbers()], device=self._run.group.device)
            waiting, *wished = self._run.group.sum(numbers).tolist()
            agreed = Wishes.of(wished)
            self.learn(agreed)
            if not waiting:
                return not (agreed.failed_saves or agreed.failed_shares)

    def _make_room(self) -> None:
        """Let memory be taken beside training once it is known how much: fresh pages cost more than the copy."""
        if not self._has_room:
            self._has_room = True
            self._run.checkpointer.prepare(self._run.trainable.collect()[0])

    def _collect(self) -> None:
        """Record what has become of the saves so far."""
        for outcome in self._run.checkpointer.poll():
            if isinstance(outcome, Saved):
                self._record(outcome)
            elif outcome.checkpoint.incarnation != self._run.incarnation:
                continue  # others have taken over meanwhile, and this process has joined them
            elif not isinstance(outcome.error, STORAGE_FAILURES):
                raise outcome.error
            elif self._run.group.is_first:
                self._count_failure(str(outcome.error), outcome.checkpoint.step)
            else:
                print(redact(f"rank {self._run.group.rank}: {outcome.error}"), file=sys.stderr, flush=True)
                self._share_failed = True

    def _record(self, saved: Saved) -> None:
        run, step = self._run, saved.checkpoint.step
        self._failed, self._committed = 0, step
        run.metrics[metric_names.TRAIN_CHECKPOINT_SECONDS].observe(saved.seconds)
        run.metrics[metric_names.TRAIN_CHECKPOINT_STEP].set(step)
        run.events.write("checkpoint", checkpoint=str(saved.checkpoint), step=step, seconds=round(saved.seconds, 3))

    def _count_failure(self, problem: str, step: int) -> None:
        self._failed += 1
        self._run.metrics[metric_names.TRAIN_CHECKPOINT_FAILURES].inc()
        self._run.events.tell("checkpoint_failed", problem, step=step)


def given_up(failed: int) -> CannotCreateError:
    """What ends a run whose checkpoints cannot be stored."""
    return CannotCreateError(
        f"the last {failed} checkpoints could not be stored.",
        hint="Free space or repair access at checkpoint.path, then submit again; older ones are intact.",
    )
