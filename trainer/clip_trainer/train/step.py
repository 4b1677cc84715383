"""One optimiser step on one global batch, exact for any number of ranks and any micro-batch size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from clip_trainer.data.loading.batch import Batch
from clip_trainer.optim import LossScaler, clamp_logit_scale, set_learning_rate
from clip_trainer.parallel.replicated import Replicated
from clip_trainer.parallel.strategy import Parallel
from clip_trainer.train.group import Group
from clip_trainer.train.guard import Guard
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.objective import LossTerms, Objective
from clip_trainer.train.running_statistics import RunningStatistics
from clip_trainer.train.wishes import NOTHING, Wishes
from clipctl.contract.failpoints import failpoint


@dataclass(frozen=True)
class StepResult:
    """What happened in a step; the same on every rank.

    Attributes:
        loss: what was minimised, over the whole global batch.
        losses: its terms by name; they sum to `loss`.
        gradient_norm: L2 norm of the full gradient before clipping; NaN if the loss was not finite.
        digest: order-independent digest of the samples consumed by all ranks.
        replaced: undecodable samples that were replaced, over all ranks.
        agreed: the wishes of all ranks, summed.
        skipped: why the weights were left as they were; None if they were updated.
        seconds: time by phase on this rank.
    """

    loss: float
    losses: dict[str, float]
    gradient_norm: float
    digest: int
    replaced: int
    agreed: Wishes
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
        before_update: called when the gradients are there and before anything of the state changes.
        parallel: how the ranks share the model; None means that each has all of it.

    Attributes:
        torn: the state is between two steps: an error in the middle of an update left it useless. Whoever has counted
            the step sets it to False again.
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
        before_update: Callable[[], None] = lambda: None,
        parallel: Parallel | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._group = group
        self._objective = objective
        self._guard = guard
        self._grad_clip_norm = grad_clip_norm
        self._scaler = scaler
        self._before_update = before_update
        self._parallel = parallel or Replicated(group)
        self.torn = False
        self._statistics = RunningStatistics(model)

    def __call__(self, batch: Batch, learning_rate: float, wishes: Wishes = NOTHING) -> StepResult:
        """Do the step. Collective: all ranks call it with their part of the same global batch.

        A bad step changes nothing of the model or the optimiser, on any rank. Nor does one that a lost peer interrupts,
        unless that happens in the middle of the update (`torn`).
        """
        before = self._statistics.copy()
        try:
            return self._do(batch, learning_rate, wishes, before)
        except BaseException:
            if not self.torn:
                self._statistics.put_back(before)
            raise

    def _do(self, batch: Batch, learning_rate: float, wishes: Wishes, before: list[torch.Tensor]) -> StepResult:
        started = time.monotonic()
        self._optimizer.zero_grad(set_to_none=True)
        with self._parallel.computing():
            terms = self._objective.backward(batch, upstream=self._scaler.scale if self._scaler else 1.0)
        computed = time.monotonic()
        losses, digest, replaced, agreed = self._agree(terms, batch, wishes)
        loss = sum(losses.values())
        if math.isfinite(loss):
            self._parallel.sum_gradients(self._model.parameters())
        reduced = time.monotonic()
        norm = self._bounded_gradient() if math.isfinite(loss) else math.nan
        failpoint("train.before_update")
        self._before_update()
        self.torn = True
        skipped = self._judge(loss, norm)
        if skipped is None:
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
            failpoint("train.torn")
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
        return StepResult(loss, losses, norm, digest, replaced, agreed, skipped, seconds)

    def _bounded_gradient(self) -> float:
        """Undo the loss scaling, clip; the norm in between."""
        if self._scaler is not None:
            self._scaler.unscale(self._model.parameters())
        return float(self._parallel.clip_gradient_norm(self._model.parameters(), self._grad_clip_norm))

    def _judge(self, loss: float, norm: float) -> str | None:
        """Why the weights must stay; an overflow that a smaller loss scale may mend is not the guard's business."""
        if self._scaler is None or not math.isfinite(loss):
            return self._guard.judge(loss, norm)
        scale, mendable = self._scaler.scale, self._scaler.can_shrink and not math.isfinite(norm)
        self._scaler.update(norm)
        return f"the gradient overflows at loss scale {scale:g}" if mendable else self._guard.judge(loss, norm)

    def _agree(self, terms: LossTerms, batch: Batch, wishes: Wishes) -> tuple[dict[str, float], int, int, Wishes]:
        """Sum what every rank must know alike: losses, ledger digest, replaced samples, wishes."""
        digest = sample_digest(batch.sample_ids, batch.position_start)
        numbers = torch.tensor([len(batch.replaced), *wishes.numbers()], dtype=torch.int64)
        integers = torch.cat([digest.reshape(1), numbers]).to(self._group.device)
        losses = self._group.sum(torch.stack([term.double() for term in terms.values()])).tolist()
        summed, replaced, *wished = self._group.sum(integers).tolist()
        return dict(zip(terms, losses, strict=True)), summed, replaced, Wishes.of(wished)
