"""Leaving out image patches in training (FLIP, arXiv 2212.00794)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from clip_trainer.data.order.prp import U64, derive


class PatchDropout(nn.Module):
    """Keep a random part of the patches of each image, and the class token always. Nothing happens in evaluation.

    Which patches stay is drawn from torch's CPU generator, on every device, as OpenCLIP does; inside `keyed` each image
    has a key of its own that decides it, however the batch is spread over ranks and micro-batches.

    Args:
        rate: share of patches left out, 0 <= rate < 1. It may be changed at any time (schedules).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._keys: U64 | None = None

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

    @contextmanager
    def keyed(self, keys: U64) -> Iterator[None]:
        """Draw the patches of image i from keys[i] (64 bits) alone."""
        self._keys = keys
        try:
            yield
        finally:
            self._keys = None

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1 + patches, width] -> [n, 1 + kept patches, width], the kept ones in random order."""
        if not self.training or self.rate == 0:
            return x
        rows, patches = x.shape[0], x.shape[1] - 1
        kept = max(1, int(patches * (1 - self.rate)))
        scores = torch.randn(rows, patches) if self._keys is None else keyed_scores(self._keys, patches)
        order = scores.topk(kept, dim=-1).indices.to(x.device)
        chosen = x[:, 1:].gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, :1], chosen], dim=1)


def keyed_scores(keys: U64, patches: int) -> Tensor:
    """[n, patches] uniform in [0, 1), row i a function of keys[i]."""
    words = derive(keys[:, None], np.arange(patches, dtype=np.uint64)[None, :])
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
