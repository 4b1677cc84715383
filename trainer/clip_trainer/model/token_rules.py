"""Rules that change the scores of the next token before one is chosen.

The definitions are those of Hugging Face's generation, which OpenCLIP's `generate` uses. Scores are [rows, vocabulary].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenRules:
    """What holds for every way of choosing."""

    ends: Tensor
    """Token ids that end a text: int64 [count]."""
    minimum: int
    """Length (start token included) below which a text cannot end."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative scores of tokens the text has already (arXiv 1909.05858)."""

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Scores of the token that follows `tokens` [rows, length]."""
        if tokens.shape[1] < self.minimum:
            scores = scores.index_fill(1, self.ends, -torch.inf)
        if self.repetition_penalty != 1.0:
            present = scores.gather(1, tokens)
            penalty = self.repetition_penalty
            scores = scores.scatter(1, tokens, torch.where(present < 0, present * penalty, present / penalty))
        return scores


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """-inf for all but the `k` largest of each row (ties with the k-th stay)."""
    smallest = scores.topk(min(max(k, 1), scores.shape[1])).values[:, -1:]
    return scores.masked_fill(scores < smallest, -torch.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """-inf for all but the most probable tokens of each row that together reach probability `p` (arXiv 1904.09751)."""
    ordered, order = scores.sort(dim=1)
    below = ordered.softmax(dim=1).cumsum(dim=1) <= 1 - p
    below[:, -1] = False
    return scores.masked_fill(torch.zeros_like(below).scatter(1, order, below), -torch.inf)
