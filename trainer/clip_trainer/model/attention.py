"""Multi-head attention with the parameter names of `torch.nn.MultiheadAttention`, which OpenCLIP stores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.config import BlockConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.layers import make_norm

MAX_LOGIT_SCALE = math.log(100)
"""Bound of the learned temperature of cosine attention (arXiv 2111.09883)."""


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(head width)) V over `heads` heads (arXiv 1706.03762), with biases.

    Query, key and value projections are one stacked matrix `in_proj_weight` [3 width, width].

    Args:
        width: width of the residual stream.
        heads: number of heads; divides `width`.
        options: the switches of a custom block (`qk_norm`, `scaled_cosine_attn`, `scale_heads`, `scale_attn_inner`);
            None for attention without any of them.
    """

    def __init__(self, width: int, heads: int, options: BlockConfig | None = None) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.custom = options is not None
        options = options or BlockConfig()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        per_head = torch.empty(heads, 1, 1)
        self.logit_scale = nn.Parameter(per_head.clone()) if options.scaled_cosine_attn else None
        self.head_scale = nn.Parameter(per_head.clone()) if options.scale_heads else None
        normed = options.qk_norm
        self.ln_q = make_norm(width // heads, options.norm_kwargs) if normed else nn.Identity()
        self.ln_k = make_norm(width // heads, options.norm_kwargs) if normed else nn.Identity()
        self.ln_inner = make_norm(width, options.norm_kwargs) if options.scale_attn_inner else nn.Identity()
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool = False, visible: Tensor | None = None) -> Tensor:
        """Attend from every token to every token it may see.

        Args:
            x: [n, tokens, width].
            causal: hide later tokens from earlier ones.
            visible: in place of `causal`, which keys each query sees: bool, broadcastable to [n, heads, tokens,
                tokens].
        """
        query, key, value = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self._attend(query, key, value, causal=causal, visible=visible)

    def at(self, x: Tensor, index: Tensor, *, causal: bool = False, visible: Tensor | None = None) -> Tensor:
        """What `forward` returns at one token a row, computing only that: [n, 1, width].

        Args:
            x: [n, tokens, width].
            index: [n] int64, the token of each row.
            causal: hide the tokens after `index`.
            visible: see `forward`; here exactly [n, 1, tokens, tokens].
        """
        width = x.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = functional.linear(take_token(x, index), weight[:width], bias[:width])
        key, value = functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        if visible is not None:
            visible = take_token(visible.squeeze(1), index)[:, None]
        elif causal:
            positions = torch.arange(x.shape[1], device=x.device)
            visible = (positions <= index[:, None])[:, None, None, :]
        return self._attend(query, key, value, causal=False, visible=visible)

    def cross(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from the tokens `x` [n, tokens, width] to all of `context` [n, others, width]."""
        width = x.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = functional.linear(x, weight[:width], bias[:width])
        key, value = functional.linear(context, weight[width:], bias[width:]).chunk(2, dim=-1)
        return self._attend(query, key, value, causal=False, visible=None)

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill as torch's MultiheadAttention, or as OpenCLIP's attention of custom blocks."""
        width = self.in_proj_weight.shape[1]
        streams.fill(self.in_proj_bias, 0.0)
        if not self.custom:
            # Xavier's bound for the stacked [3 width, width] matrix.
            streams.uniform(self.in_proj_weight, math.sqrt(6 / (4 * width)), f"{prefix}in_proj_weight")
            streams.fill(self.out_proj.bias, 0.0)
            return
        streams.normal(self.in_proj_weight, (width // self.heads) ** -0.5, f"{prefix}in_proj_weight")
        if self.logit_scale is not None:
            streams.fill(self.logit_scale, math.log(10))
        if self.head_scale is not None:
            streams.fill(self.head_scale, 1.0)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, visible: Tensor | None) -> Tensor:
        """From projected tokens to the output projection."""
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))
        factor = None
        if self.logit_scale is None:
            query, key = self.ln_q(query), self.ln_k(key)
        else:
            temperature = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
            query, key = functional.normalize(query, dim=-1) * temperature, functional.normalize(key, dim=-1)
            # Parameters of the temperature may be stored in more precision than the matrices.
            query, factor = query.to(key.dtype), 1.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, is_causal=causal and visible is None, scale=factor
        )
        if self.head_scale is not None:
            mixed = mixed * self.head_scale.to(mixed.dtype)
        merged: Tensor = self.out_proj(self.ln_inner(mixed.transpose(1, 2).flatten(2)))
        return merged


class CrossAttention(nn.Module):
    """Attention to a context of another width, with a separate matrix for queries, keys and values.

    Args:
        width: width of the queries and of the result.
        context_width: width of what is attended to.
        heads: number of heads; divides `width`.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.q_proj_weight = nn.Parameter(torch.empty(width, width))
        self.k_proj_weight = nn.Parameter(torch.empty(width, context_width))
        self.v_proj_weight = nn.Parameter(torch.empty(width, context_width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def cross(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from `x` [n, tokens, width] to all of `context` [n, others, context width]."""
        query_bias, key_bias, value_bias = self.in_proj_bias.chunk(3)
        mixed = functional.scaled_dot_product_attention(
            split_heads(functional.linear(x, self.q_proj_weight, query_bias), self.heads),
            split_heads(functional.linear(context, self.k_proj_weight, key_bias), self.heads),
            split_heads(functional.linear(context, self.v_proj_weight, value_bias), self.heads),
        )
        merged: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return merged

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill as torch's MultiheadAttention."""
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(self, name)
            streams.uniform(weight, math.sqrt(6 / sum(weight.shape)), prefix + name)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            streams.fill(bias, 0.0)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[n, tokens, width] -> [n, heads, tokens, head width]."""
    rows, tokens, width = x.shape
    return x.reshape(rows, tokens, heads, width // heads).transpose(1, 2)


def take_token(x: Tensor, index: Tensor) -> Tensor:
    """Row `index[i]` of each `x[i]`: [n, tokens, width], [n] -> [n, 1, width]."""
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[-1]))
