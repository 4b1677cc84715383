"""What models hand to losses, and what losses hand back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

LossTerms = dict[str, Tensor]
"""This rank's part of each named loss, 0-d. Summed over ranks each is the loss of the global batch; the sum of all of
them is what is minimised (weights are already applied). Names are OpenCLIP's: contrastive_loss, caption_loss,
distill_loss."""


class Features(NamedTuple):
    """Embeddings of pairs, and what turns similarities into logits: scale * <image, text> + bias."""

    image: Tensor
    """[b, d], rows of unit length."""
    text: Tensor
    """[b, d], row i describes image i."""
    scale: Tensor
    """0-d inverse temperature (already exponentiated)."""
    bias: Tensor | None = None
    """0-d logit bias, if the model has one."""
