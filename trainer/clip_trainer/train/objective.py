"""What one global batch costs, and its gradients: the seam between the optimiser step and models with their losses."""

from __future__ import annotations

from typing import Protocol

import torch

from clip_trainer.data.batch import Batch
from clip_trainer.loss import ContrastiveLoss, LossOutput, backward_cached
from clip_trainer.model import CLIP, Precision
from clip_trainer.model.clip import ClipOutput
from clip_trainer.train.micro_batch import MicroBatch, split
from clip_trainer.vision import Preprocess, normalize

LossTerms = dict[str, torch.Tensor]
"""This rank's part of each named loss, 0-d, without a graph. Summed over ranks each is the loss of the global batch;
the sum of all of them is what is minimised (weights are already applied)."""


class Objective(Protocol):
    """What a training step minimises."""

    def backward(self, batch: Batch, *, upstream: float = 1.0) -> LossTerms:
        """Losses of the batch; gradients accumulate in `.grad` of the model's parameters. Collective.

        Gradients summed (not averaged) over ranks are those of a single process with the whole global batch, for any
        number of ranks, any share of the batch (also none) and any micro-batch size.

        Args:
            batch: this rank's part of the global batch.
            upstream: factor of all gradients (fp16 loss scaling), the same on every rank; the terms do not have it.
        """
        ...


class ContrastiveObjective:
    """CLIP's loss of a model.

    Args:
        model: on `device`.
        precision: how to run it.
        preprocess: normalisation of the images.
        device: where to compute.
        micro_batch: samples that go through the towers at once.
    """

    def __init__(
        self, model: CLIP, precision: Precision, preprocess: Preprocess, device: torch.device, *, micro_batch: int
    ) -> None:
        self._model = model
        self._precision = precision
        self._preprocess = preprocess
        self._device = device
        self._micro_batch = micro_batch
        self._loss = ContrastiveLoss()

    def backward(self, batch: Batch, *, upstream: float = 1.0) -> LossTerms:
        """See `Objective.backward`."""

        def contrast(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> LossOutput:
            return self._loss(image, text, scale, None, batch.counts)

        parts = list(split(batch, self._micro_batch))
        out = backward_cached(parts, self._encode, contrast, key=batch.position_start, upstream=upstream)
        return {"contrastive_loss": out.contribution}

    def _encode(self, part: MicroBatch) -> ClipOutput:
        images = normalize(
            part.images.to(self._device, non_blocking=True),
            self._preprocess.mean,
            self._preprocess.std,
            self._precision.image_dtype,
        )
        with self._precision.autocast(self._device.type):
            out: ClipOutput = self._model(images, part.tokens.to(self._device, non_blocking=True), part.text_length)
        # The loss is summed over the whole batch: in fp32, whatever the towers computed in.
        return ClipOutput(out.image_features.float(), out.text_features.float(), out.logit_scale.float())
