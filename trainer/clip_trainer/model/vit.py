"""The image tower: a vision transformer (arXiv 2010.11929) pooled at its class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_trainer.model.config import VisionConfig
from clip_trainer.model.transformer import LayerNorm, Transformer


class VisionTransformer(nn.Module):
    """Patches -> transformer -> projected class token.

    Args:
        config: shape of the tower.
        embed_dim: width of the shared embedding space.
        quick_gelu: activation of the MLPs.
        pooled_last_block: compute the last block for the class token only (exact, faster).
    """

    def __init__(self, config: VisionConfig, embed_dim: int, *, quick_gelu: bool, pooled_last_block: bool) -> None:
        super().__init__()
        self.image_size = config.image_hw
        self.pooled_last_block = pooled_last_block
        width, patch = config.width, config.patch_hw
        assert isinstance(config.layers, int)
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.patches + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(
            width=width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            quick_gelu=quick_gelu,
            causal=False,
        )
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, image: Tensor) -> Tensor:
        """Embed normalised images [n, 3, size, size] as [n, embed_dim] (not L2-normalised).

        Raises:
            ValueError: the images have another size than the model's.
        """
        if image.shape[-2:] != self.image_size:
            given, wanted = ("x".join(map(str, size)) for size in (image.shape[-2:], self.image_size))
            raise ValueError(f"images are {given}, the model takes {wanted}")
        x = self._embed(image)
        class_token = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        pooled = self.transformer.pooled(x, class_token, pooled_last_block=self.pooled_last_block)
        projected: Tensor = self.ln_post(pooled) @ self.proj
        return projected

    def _embed(self, image: Tensor) -> Tensor:
        """Patch and class embeddings plus positions: [n, 1 + patches, width]."""
        patches = self.conv1(image).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        embedded: Tensor = self.ln_pre(x)
        return embedded
