"""Pooling by cross attention from learned queries (CoCa, arXiv 2205.01917)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_trainer.model.attention import CrossAttention, SelfAttention
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.layers import LayerNorm


class AttentionalPooler(nn.Module):
    """A few learned queries that attend to all tokens.

    Args:
        width: width of the queries and of the result.
        context_width: width of the tokens.
        heads: attention heads.
        queries: number of queries.
    """

    def __init__(self, width: int, context_width: int, *, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(queries, width))
        # One stacked matrix where the widths allow it: the layout of torch.nn.MultiheadAttention.
        self.attn = (
            SelfAttention(width, heads) if width == context_width else CrossAttention(width, context_width, heads)
        )
        self.ln_q = LayerNorm(width)
        self.ln_k = LayerNorm(context_width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, context width] -> [n, queries, width]."""
        queries = self.ln_q(self.query).to(x.dtype).expand(len(x), -1, -1)
        return self.attn.cross(queries, self.ln_k(x))

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill the queries; the layers have torch's defaults."""
        streams.normal(self.query, 1.0, f"{prefix}query")
