"""Multi-head self-attention with the parameter names of `torch.nn.MultiheadAttention`, which OpenCLIP stores."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(head width)) V over `heads` heads (arXiv 1706.03762), with biases.

    Query, key and value projections are one stacked matrix `in_proj_weight` [3 width, width].

    Args:
        width: width of the residual stream.
        heads: number of heads; divides `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """Attend from every token to every (causal: not later) token.

        Args:
            x: [n, tokens, width].
            causal: hide later tokens from earlier ones.
        """
        query, key, value = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), is_causal=causal
        )
        return self._merge(mixed)

    def at(self, x: Tensor, index: Tensor, *, causal: bool) -> Tensor:
        """What `forward` returns at one token a row, computing only that: [n, 1, width].

        Args:
            x: [n, tokens, width].
            index: [n] int64, the token of each row.
            causal: hide the tokens after `index`.
        """
        width = x.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = functional.linear(take_token(x, index), weight[:width], bias[:width])
        key, value = functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        visible = None
        if causal:
            positions = torch.arange(x.shape[1], device=x.device)
            visible = (positions <= index[:, None])[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), attn_mask=visible
        )
        return self._merge(mixed)

    def _split(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> [n, heads, tokens, head width]."""
        rows, tokens, width = x.shape
        return x.reshape(rows, tokens, self.heads, width // self.heads).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        """Undo `_split` and apply the output projection."""
        merged: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))
        return merged


def take_token(x: Tensor, index: Tensor) -> Tensor:
    """Row `index[i]` of each `x[i]`: [n, tokens, width], [n] -> [n, 1, width]."""
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[-1]))
