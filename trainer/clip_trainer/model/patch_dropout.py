"""Leaving out image patches in training (FLIP, arXiv 2212.00794)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchDropout(nn.Module):
    """Keep a random part of the patches of each image, and the class token always. Nothing happens in evaluation.

    Which patches stay is drawn from torch's CPU generator, on every device: what the trainer seeds for a micro-batch
    (and seeds again for its second forward pass) decides it.

    Args:
        rate: share of patches left out, 0 <= rate < 1. It may be changed at any time (schedules).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def rate(self) -> float:
        """Share of patches left out."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        """Change it; ValueError unless 0 <= rate < 1."""
        if not 0 <= rate < 1:
            raise ValueError(f"the patch dropout rate is {rate}; it must be at least 0 and below 1")
        self._rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1 + patches, width] -> [n, 1 + kept patches, width], the kept ones in random order."""
        if not self.training or self.rate == 0:
            return x
        rows, patches = x.shape[0], x.shape[1] - 1
        kept = max(1, int(patches * (1 - self.rate)))
        order = torch.randn(rows, patches).topk(kept, dim=-1).indices.to(x.device)
        chosen = x[:, 1:].gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, :1], chosen], dim=1)
