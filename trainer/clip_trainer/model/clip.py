"""CLIP: an image tower and a text tower that meet in one embedding space (arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.config import ClipConfig
from clip_trainer.model.text_transformer import TextTransformer
from clip_trainer.model.vit import VisionTransformer


@dataclass(frozen=True)
class SpeedUps:
    """Exact shortcuts of the model, each of which can be switched off to check it.

    Text truncation is the caller's: pass `text_length` or None to `CLIP.forward`.
    """

    pooled_last_block: bool = True
    """Compute the last block of both towers for the pooled token only."""


class ClipOutput(NamedTuple):
    """What a forward pass gives to the loss."""

    image_features: Tensor
    """[n, embed_dim], rows of unit length."""
    text_features: Tensor
    """[n, embed_dim], rows of unit length."""
    logit_scale: Tensor
    """0-d, the inverse temperature (already exponentiated)."""


class CLIP(TextTransformer):
    """Both towers.

    It *is* the text tower with an image tower attached, because OpenCLIP's checkpoint layout keeps the parts of the
    text tower at the root (`token_embedding`, `transformer`, ...) and those of the image tower below `visual`.

    Args:
        config: shape of the model.
        speed_ups: exact shortcuts to use.
    """

    def __init__(self, config: ClipConfig, speed_ups: SpeedUps) -> None:
        pooled_last_block = speed_ups.pooled_last_block
        super().__init__(
            config.text,
            config.embed_dim,
            quick_gelu=config.quick_gelu,
            pooled_last_block=pooled_last_block,
        )
        self.config = config
        self.visual = VisionTransformer(
            config.vision,
            config.embed_dim,
            quick_gelu=config.quick_gelu,
            pooled_last_block=pooled_last_block,
        )
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embed normalised images [n, 3, size, size] as [n, embed_dim]."""
        features: Tensor = self.visual(image)
        return functional.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor, text: Tensor, text_length: int | None = None) -> ClipOutput:
        """Embed a batch of pairs for the loss (see `encode_image` and `encode_text` for the arguments)."""
        return ClipOutput(
            image_features=self.encode_image(image, normalize=True),
            text_features=self.encode_text(text, normalize=True, text_length=text_length),
            logit_scale=self.logit_scale.exp(),
        )
