"""One optimiser step on one global batch, exact for any number of ranks and any micro-batch size."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from clip_trainer.data.batch import Batch
from clip_trainer.loss import ContrastiveLoss, LossOutput, backward_cached
from clip_trainer.model import CLIP, Precision
from clip_trainer.model.clip import ClipOutput
from clip_trainer.optim import clamp_logit_scale, clip_gradient_norm, set_learning_rate
from clip_trainer.train.group import Group
from clip_trainer.train.ledger import sample_digest
from clip_trainer.vision import Preprocess, normalize
from clipctl.contract.errors import InternalError

_LENGTH_MULTIPLE = 8


class MicroBatch(NamedTuple):
    """What the towers see at once: uint8 images [n, 3, s, s], tokens [n, context], and the longest caption in it."""

    images: torch.Tensor
    tokens: torch.Tensor
    text_length: int


@dataclass(frozen=True)
class StepResult:
    """What happened in a step; the same on every rank.

    Attributes:
        loss: contrastive loss of the whole global batch.
        gradient_norm: L2 norm of the full gradient before clipping.
        digest: order-independent digest of the samples consumed by all ranks.
        replaced: undecodable samples that were replaced, over all ranks.
        preempted: whether any rank was asked to stop.
        seconds: time by phase on this rank.
    """

    loss: float
    gradient_norm: float
    digest: int
    replaced: int
    preempted: bool
    seconds: dict[str, float]


class TrainStep:
    """Everything a step needs except the batch and the learning rate."""

    def __init__(
        self,
        model: CLIP,
        optimizer: torch.optim.Optimizer,
        group: Group,
        precision: Precision,
        preprocess: Preprocess,
        *,
        micro_batch: int,
        grad_clip_norm: float | None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._group = group
        self._precision = precision
        self._preprocess = preprocess
        self._micro_batch = micro_batch
        self._grad_clip_norm = grad_clip_norm
        self._loss = ContrastiveLoss()

    def __call__(self, batch: Batch, learning_rate: float, preempted: bool) -> StepResult:
        """Do the step. Collective: all ranks call it with their part of the same global batch.

        Raises:
            InternalError: the loss is not finite; no rank has changed its weights.
        """
        started = time.monotonic()
        self._optimizer.zero_grad(set_to_none=True)
        contribution = self._backward(batch)
        computed = time.monotonic()
        loss, digest, replaced, stop = self._agree(contribution, batch, preempted)
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
        return StepResult(loss, float(norm), digest, replaced, stop, seconds)

    def _backward(self, batch: Batch) -> torch.Tensor:
        micro_batches = list(_split(batch, self._micro_batch))
        out = backward_cached(
            micro_batches,
            self._encode,
            lambda image, text, scale: self._contrast(image, text, scale, batch.counts),
            key=batch.position_start,
        )
        return out.contribution

    def _encode(self, part: MicroBatch) -> ClipOutput:
        device = self._group.device
        images = normalize(
            part.images.to(device, non_blocking=True),
            self._preprocess.mean,
            self._preprocess.std,
            self._precision.image_dtype,
        )
        with self._precision.autocast(device.type):
            out: ClipOutput = self._model(images, part.tokens.to(device, non_blocking=True), part.text_length)
        # The loss is summed over the whole batch: in fp32, whatever the towers computed in.
        return ClipOutput(out.image_features.float(), out.text_features.float(), out.logit_scale.float())

    def _contrast(
        self, image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, counts: tuple[int, ...]
    ) -> LossOutput:
        return self._loss(image, text, scale, None, counts)

    def _agree(self, contribution: torch.Tensor, batch: Batch, preempted: bool) -> tuple[float, int, int, bool]:
        """Sum what every rank must know alike: loss, ledger digest, replaced samples, wish to stop."""
        integers = torch.stack(
            [
                sample_digest(batch.sample_ids, batch.position_start),
                torch.tensor(len(batch.replaced), dtype=torch.int64),
                torch.tensor(int(preempted), dtype=torch.int64),
            ]
        ).to(self._group.device)
        loss = self._group.sum(contribution.detach().double().reshape(1).clone())
        digest, replaced, stop = self._group.sum(integers).tolist()
        return float(loss), digest, replaced, stop > 0


def _split(batch: Batch, size: int) -> Iterator[MicroBatch]:
    """Cut the rank's samples into micro-batches; the last may be shorter.

    The text length is rounded up so that few different shapes occur, which compilers and allocators like.
    """
    samples, context = batch.tokens.shape
    length = min(context, -(-batch.text_max_len // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE)
    for start in range(0, max(samples, 1), size):
        end = start + size
        yield MicroBatch(batch.images[start:end], batch.tokens[start:end], length)
