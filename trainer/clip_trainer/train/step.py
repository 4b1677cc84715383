"""One optimiser step on one global batch, exact for any number of ranks and any micro-batch size."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from clip_trainer.data.loading.batch import Batch
from clip_trainer.optim import LossScaler, clamp_logit_scale, clip_gradient_norm, set_learning_rate
from clip_trainer.train.group import Group
from clip_trainer.train.guard import Guard
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.objective import LossTerms, Objective
from clip_trainer.train.running_statistics import RunningStatistics


@dataclass(frozen=True)
class StepResult:
    """What happened in a step; the same on every rank.

    Attributes:
        loss: what was minimised, over the whole global batch.
        losses: its terms by name; they sum to `loss`.
        gradient_norm: L2 norm of the full gradient before clipping; NaN if the loss was not finite.
        digest: order-independent digest of the samples consumed by all ranks.
        replaced: undecodable samples that were replaced, over all ranks.
        preempted: whether any rank was asked to stop.
        skipped: why the weights were left as they were; None if they were updated.
        seconds: time by phase on this rank.
    """

    loss: float
    losses: dict[str, float]
    gradient_norm: float
    digest: int
    replaced: int
    preempted: bool
    skipped: str | None
    seconds: dict[str, float]


class TrainStep:
    """Everything a step needs except the batch and the learning rate.

    Args:
        model: its parameters are updated.
        optimizer: of these parameters.
        group: the ranks that train together.
        objective: what to minimise.
        guard: says which steps must not change the weights.
        grad_clip_norm: bound on the gradient's norm; None means none.
        scaler: scales the loss; None means that the precision needs no scaling.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        group: Group,
        objective: Objective,
        guard: Guard,
        *,
        grad_clip_norm: float | None,
        scaler: LossScaler | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._group = group
        self._objective = objective
        self._guard = guard
        self._grad_clip_norm = grad_clip_norm
        self._scaler = scaler
        self._statistics = RunningStatistics(model)

    def __call__(self, batch: Batch, learning_rate: float, preempted: bool) -> StepResult:
        """Do the step. Collective: all ranks call it with their part of the same global batch.

        A bad step changes nothing of the model or the optimiser, on any rank.
        """
        started = time.monotonic()
        before = self._statistics.copy()
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._objective.backward(batch, upstream=self._scaler.scale if self._scaler else 1.0)
        computed = time.monotonic()
        losses, digest, replaced, stop = self._agree(terms, batch, preempted)
        loss = sum(losses.values())
        if math.isfinite(loss):
            self._group.sum_gradients(self._model.parameters())
        reduced = time.monotonic()
        norm = self._bounded_gradient() if math.isfinite(loss) else math.nan
        skipped = self._judge(loss, norm)
        if skipped is None:
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
            clamp_logit_scale(self._model)
            self._statistics.average(self._group)
        else:
            self._statistics.put_back(before)
        seconds = {
            "data": batch.wait_seconds,
            "compute": computed - started,
            "reduce": reduced - computed,
            "optimizer": time.monotonic() - reduced,
        }
        return StepResult(loss, losses, norm, digest, replaced, stop, skipped, seconds)

    def _bounded_gradient(self) -> float:
        """Undo the loss scaling, clip; the norm in between."""
        if self._scaler is not None:
            self._scaler.unscale(self._model.parameters())
        return float(clip_gradient_norm(self._model.parameters(), self._grad_clip_norm))

    def _judge(self, loss: float, norm: float) -> str | None:
        """Why the weights must stay; an overflow that a smaller loss scale may mend is not the guard's business."""
        if self._scaler is None or not math.isfinite(loss):
            return self._guard.judge(loss, norm)
        scale, mendable = self._scaler.scale, self._scaler.can_shrink and not math.isfinite(norm)
        self._scaler.update(norm)
        return f"the gradient overflows at loss scale {scale:g}" if mendable else self._guard.judge(loss, norm)

    def _agree(self, terms: LossTerms, batch: Batch, preempted: bool) -> tuple[dict[str, float], int, int, bool]:
        """Sum what every rank must know alike: losses, ledger digest, replaced samples, wish to stop."""
        integers = torch.stack(
            [
                sample_digest(batch.sample_ids, batch.position_start),
                torch.tensor(len(batch.replaced), dtype=torch.int64),
                torch.tensor(int(preempted), dtype=torch.int64),
            ]
        ).to(self._group.device)
        losses = self._group.sum(torch.stack([term.double() for term in terms.values()])).tolist()
        digest, replaced, stop = self._group.sum(integers).tolist()
        return dict(zip(terms, losses, strict=True)), digest, replaced, stop > 0
