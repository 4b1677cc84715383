"""What one global batch costs, and its gradients: the seam between the optimiser step and models with their losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from clip_trainer.data.loading.batch import Batch
from clip_trainer.loss import (
    DistillationLoss,
    Features,
    LossTerms,
    backward_cached,
    count_tokens,
)
from clip_trainer.loss.pairwise import PairLoss
from clip_trainer.train.group import Group
from clip_trainer.train.micro_batch import split
from clip_trainer.train.objective_encoder import Captions, ModelEncoder

__all__ = ["LossTerms", "LossWeights", "ModelObjective", "Objective"]


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


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; a term of weight 0 is not computed."""

    contrastive: float = 1.0
    """Of `contrastive_loss`."""
    caption: float = 0.0
    """Of `caption_loss`, which only CoCa models have."""


class ModelObjective:
    """Losses of a model: over all pairs (softmax or sigmoid), of captions, and against a teacher.

    The distillation loss of SigLIP students is that of CLIP's: softmax cross-entropy of the similarities.

    Args:
        encoder: runs the model, and the teacher if there is one.
        group: the ranks that share the batch.
        contrast: the loss over all pairs.
        weights: of the terms.
        micro_batch: samples that go through the towers at once.
        equal_pieces: see `Parallel.equal_pieces`.

    Raises:
        ValueError: there is nothing to minimise.
    """

    def __init__(
        self,
        encoder: ModelEncoder,
        group: Group,
        contrast: PairLoss,
        weights: LossWeights,
        *,
        micro_batch: int,
        equal_pieces: bool = False,
    ) -> None:
        if not (weights.contrastive or weights.caption or encoder.has_teacher):
            raise ValueError("every loss has weight 0: there is nothing to minimise")
        self._encoder = encoder
        self._group = group
        self._contrast = contrast
        self._distill = DistillationLoss(contrast.tile) if encoder.has_teacher else None
        self._weights = weights
        self._micro_batch = micro_batch
        self._equal_pieces = equal_pieces

    def backward(self, batch: Batch, *, upstream: float = 1.0) -> LossTerms:
        """See `Objective.backward`."""

        def pair_terms(student: Features, teacher: Features | None) -> LossTerms:
            return self._pair_terms(student, teacher, batch.counts)

        over_pairs = self._weights.contrastive or self._distill
        terms = backward_cached(
            list(split(batch, self._micro_batch, equally=self._equal_pieces)),
            self._encoder.with_captions(self._captions(batch)),
            pair_terms if over_pairs else None,
            key=batch.position_start,
            upstream=upstream,
        )
        skipped = {} if self._weights.contrastive else {"contrastive_loss": torch.zeros((), device=self._group.device)}
        return skipped | terms

    def _pair_terms(self, student: Features, teacher: Features | None, counts: tuple[int, ...]) -> LossTerms:
        image, text, scale, bias = student
        terms: LossTerms = {}
        if self._weights.contrastive:
            contribution = self._contrast(image, text, scale, None, counts, logit_bias=bias)
            terms["contrastive_loss"] = contribution * self._weights.contrastive
        if self._distill is not None:
            assert teacher is not None
            terms["distill_loss"] = self._distill(student, teacher, None, counts)
        return terms

    def _captions(self, batch: Batch) -> Captions | None:
        """The weight of captions, and by how many tokens their loss is divided: those of the global batch."""
        if not self._weights.caption:
            return None
        tokens = count_tokens(batch.tokens[:, 1:]).reshape(1).to(self._group.device)
        return Captions(self._weights.caption, self._group.sum(tokens))
