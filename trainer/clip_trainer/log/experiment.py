"""All experiment logs of a run: what goes into them, and when."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from clip_trainer.data.loading.batch import Batch
from clip_trainer.eval.frequency import only_by_epoch
from clip_trainer.log.channel import Channel, Log
from clip_trainer.log.scalars import evaluation_scalars, train_scalars
from clip_trainer.log.tensorboard import TensorBoardLog
from clip_trainer.log.wandb import WandbLog
from clip_trainer.train.run import Run
from clip_trainer.train.step import StepResult
from clipctl.contract.redact import redact


class ExperimentLogs:
    """The logs of `run.yaml`'s `log` section, on rank 0; on other ranks and without logs it does nothing.

    Args:
        run: what is logged.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        # OpenCLIP evaluates at ends of epochs, and shows evaluations over epochs; so do we where that is so.
        whole_epochs = run.spec.train.global_batch <= run.epoch_samples
        self._by_epoch = only_by_epoch(run.spec.eval) and whole_epochs
        self._channels = [Channel(name, opener) for name, opener in _openers(run)]

    def step(self, batch: Batch, result: StepResult, learning_rate: float, seconds: float) -> None:
        """Log the step just done if it is due: every `log.every_steps` steps from the first on, and the last."""
        state = self._run.state
        due = (state.step - 1) % self._run.spec.log.every_steps == 0 or state.step == self._run.total_steps
        if not due or not self._channels:
            return
        scalars = train_scalars(
            result.losses,
            loss=result.loss,
            learning_rate=learning_rate,
            logit_scale=float(self._run.model.logit_scale.detach().float().exp().mean()),
            data_seconds=batch.wait_seconds,
            batch_seconds=seconds,
            samples=batch.position_end - batch.position_start,
            world=self._run.group.world,
        )
        at = state.step - 1
        self._put(lambda log: log.train(scalars, at))

    def evaluation(self, results: Mapping[str, Any]) -> None:
        """Log the results of an evaluation."""
        state = self._run.state
        passed = state.samples_consumed / self._run.epoch_samples
        scalars = evaluation_scalars(self._run.spec.eval, results, passed)
        if scalars:
            step, epoch = state.step, round(passed) if self._by_epoch else None
            self._put(lambda log: log.evaluation(scalars, step, epoch))

    def close(self) -> None:
        """Store everything that was logged."""
        for channel in self._channels:
            channel.close()
        self._tell()

    def _put(self, action: Callable[[Log], None]) -> None:
        for channel in self._channels:
            channel.put(action)
        self._tell()

    def _tell(self) -> None:
        """Say once what went wrong."""
        for channel in self._channels:
            problem = channel.take_problem()
            if problem is not None:
                print(redact(f"warning: {problem}"), file=sys.stderr, flush=True)
                self._run.events.write("log_failed", log=channel.name, message=problem)


def _openers(run: Run) -> Sequence[tuple[str, Callable[[], Log]]]:
    """How to open each log that is asked for. Imports of the packages happen in the logs' threads."""
    if not run.group.is_first:
        return []
    found: list[tuple[str, Callable[[], Log]]] = []
    if run.spec.log.tensorboard:
        found.append(("tensorboard", partial(TensorBoardLog, run.store, run.incarnation, run.state.step)))
    section = run.spec.log.wandb
    if section is not None:
        config = {name: value for name, value in run.spec.resolved().items() if name not in ("env", "secrets")}
        name, root = run.spec.name, run.spec.root
        found.append(("wandb", partial(WandbLog, section, name=name, root=root, config=config, store=run.store)))
    return found
