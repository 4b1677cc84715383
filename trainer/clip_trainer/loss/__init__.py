"""Losses that are exact however the batch is spread over ranks and micro-batches."""

from __future__ import annotations

from clip_trainer.loss.caption import caption_loss, count_tokens
from clip_trainer.loss.contrastive import ContrastiveLoss
from clip_trainer.loss.distillation import DistillationLoss
from clip_trainer.loss.feature_cache import Encoder, backward_cached
from clip_trainer.loss.features import Features, LossTerms
from clip_trainer.loss.sigmoid import SigmoidLoss

__all__ = [
    "ContrastiveLoss",
    "DistillationLoss",
    "Encoder",
    "Features",
    "LossTerms",
    "SigmoidLoss",
    "backward_cached",
    "caption_loss",
    "count_tokens",
]
