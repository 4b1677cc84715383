"""Losses that are exact however the batch is spread over ranks and micro-batches."""

from __future__ import annotations

from clip_trainer.loss.contrastive import ContrastiveLoss, LossOutput
from clip_trainer.loss.feature_cache import backward_cached

__all__ = ["ContrastiveLoss", "LossOutput", "backward_cached"]
