"""Evaluation on the way and at the end of a run: what, when, with which weights, and where the results go."""

from __future__ import annotations

from typing import Any

from clip_trainer.eval.encoder import encoder_for
from clip_trainer.eval.evaluate import Evaluator
from clip_trainer.eval.frequency import Frequency
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.model import get_precision
from clip_trainer.text import tokenizer_folder
from clip_trainer.train.run import Run


class Evaluation:
    """The evaluations of one run.

    Args:
        run: whose model is evaluated.
        logs: where results go besides the ledger.
    """

    def __init__(self, run: Run, logs: ExperimentLogs) -> None:
        self._run, self._logs = run, logs
        self._evaluator = Evaluator(run.group, run.spec.eval, run.spec.data.threads)
        self._frequency = Frequency(run.spec.eval, run.group, run.epoch_samples)

    def after_step(self, samples_before: int) -> None:
        """Evaluate what is due after the step just done, which began at `samples_before`. Collective."""
        state = self._run.state
        due = self._frequency.due(state.step, samples_before, state.samples_consumed)
        if due:
            self._evaluate(due)
            self._frequency.evaluated(due)

    def at_the_end(self) -> dict[str, Any]:
        """Evaluate everything. Collective."""
        return self._evaluate(frozenset(self._evaluator.names))

    def _evaluate(self, names: frozenset[str]) -> dict[str, Any]:
        run = self._run
        precision = get_precision(run.spec.model.precision)
        encoder = encoder_for(
            run.model, precision, run.group.device, run.transforms.preprocess, tokenizer_folder(run.spec.model.name)
        )
        with run.averaged_weights(), run.parallel.whole(run.model):
            results = self._evaluator.run(encoder, names)
        run.events.write("eval", step=run.state.step, **results)
        self._logs.evaluation(results)
        return results
