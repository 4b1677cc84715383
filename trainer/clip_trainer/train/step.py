"""One optimiser step on one global batch, exact for any number of ranks and any micro-batch size."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from clip_trainer.data.batch import Batch
from clip_trainer.optim import clamp_logit_scale, clip_gradient_norm, set_learning_rate
from clip_trainer.train.group import Group
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.objective import LossTerms, Objective
from clipctl.contract.errors import InternalError


@dataclass(frozen=True)
class StepResult:
    """What happened in a step; the same on every rank.

    Attributes:
        loss: what was minimised, over the whole global batch.
        losses: its terms by name; they sum to `loss`.
        gradient_norm: L2 norm of the full gradient before clipping.
        digest: order-independent digest of the samples consumed by all ranks.
        replaced: undecodable samples that were replaced, over all ranks.
        preempted: whether any rank was asked to stop.
        seconds: time by phase on this rank.
    """

    loss: float
    losses: dict[str, float]
    gradient_norm: float
    digest: int
    replaced: int
    preempted: bool
    seconds: dict[str, float]


class TrainStep:
    """Everything a step needs except the batch and the learning rate.

    Args:
        model: its parameters are updated.
        optimizer: of these parameters.
        group: the ranks that train together.
        objective: what to minimise.
        grad_clip_norm: bound on the gradient's norm; None means none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        group: Group,
        objective: Objective,
        *,
        grad_clip_norm: float | None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._group = group
        self._objective = objective
        self._grad_clip_norm = grad_clip_norm

    def __call__(self, batch: Batch, learning_rate: float, preempted: bool) -> StepResult:
        """Do the step. Collective: all ranks call it with their part of the same global batch.

        Raises:
            InternalError: the loss is not finite; no rank has changed its weights.
        """
        started = time.monotonic()
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._objective.backward(batch)
        computed = time.monotonic()
        losses, digest, replaced, stop = self._agree(terms, batch, preempted)
        loss = sum(losses.values())
        if not math.isfinite(loss):
            raise InternalError(
                f"the loss is {loss} on the batch at sample {batch.position_start}; weights are unchanged.",
                hint="Lower train.learning_rate, lengthen train.warmup_steps, or set train.grad_clip_norm.",
            )
        self._group.sum_gradients(self._model.parameters())
        reduced = time.monotonic()
        norm = clip_gradient_norm(self._model.parameters(), self._grad_clip_norm)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        clamp_logit_scale(self._model)
        seconds = {
            "data": batch.wait_seconds,
            "compute": computed - started,
            "reduce": reduced - computed,
            "optimizer": time.monotonic() - reduced,
        }
        return StepResult(loss, losses, float(norm), digest, replaced, stop, seconds)

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
