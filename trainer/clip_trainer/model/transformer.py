"""The pre-norm residual transformer both towers are made of (module names as in OpenCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.attention import SelfAttention, take_token


class LayerNorm(nn.LayerNorm):
    """Layer norm in the precision of its weights, returned in the precision of its input.

    With float32 weights this keeps the statistics in float32 under autocast and in the `bf16` mode alike, and a
    bfloat16 residual stream stays bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        normed = functional.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the GELU approximation that OpenAI's CLIP weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it element by element."""
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """Two linear layers around an activation.

    Args:
        width: width of the residual stream.
        hidden: width between the layers.
        quick_gelu: use `QuickGELU` in place of GELU.
    """

    def __init__(self, width: int, hidden: int, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class ResidualAttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: width of the residual stream.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP divided by `width`.
        quick_gelu: activation of the MLP.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), quick_gelu)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """Map [n, tokens, width] to the same shape."""
        return self._feed_forward(x + self.attn(self.ln_1(x), causal=causal))

    def at(self, x: Tensor, index: Tensor, *, causal: bool) -> Tensor:
        """What `forward` returns at token `index[i]` of each row, computing only that: [n, 1, width]."""
        return self._feed_forward(take_token(x, index) + self.attn.at(self.ln_1(x), index, causal=causal))

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """A stack of residual blocks of which only one token a row is wanted at the end.

    Args:
        width: width of the residual stream.
        layers: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP divided by `width`.
        quick_gelu: activation of the MLPs.
        causal: hide later tokens from earlier ones.
    """

    def __init__(
        self, *, width: int, layers: int, heads: int, mlp_ratio: float, quick_gelu: bool, causal: bool
    ) -> None:
        super().__init__()
        self.causal = causal
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, heads, mlp_ratio, quick_gelu) for _ in range(layers)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision the blocks compute in (when autocast does not decide)."""
        block = self.resblocks[0]
        assert isinstance(block, ResidualAttentionBlock)
        return block.mlp.c_fc.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """All tokens after all blocks: [n, tokens, width] -> the same shape."""
        for block in self.resblocks:
            x = block(x, causal=self.causal)
        return x

    def at(self, x: Tensor, index: Tensor) -> Tensor:
        """`forward(x)` at token `index[i]` of each row: [n, width].

        The last block is computed for that token alone. Nothing else of its output reaches the loss, so value and
        gradients are those of `forward`; it saves about one block's MLP and output projection.
        """
        *earlier, last = self.resblocks
        for block in earlier:
            x = block(x, causal=self.causal)
        assert isinstance(last, ResidualAttentionBlock)
        return last.at(x, index, causal=self.causal).squeeze(1)

    def pooled(self, x: Tensor, index: Tensor, *, pooled_last_block: bool) -> Tensor:
        """The final state of token `index[i]` of each row, by the short way or by computing all tokens."""
        if pooled_last_block:
            return self.at(x, index)
        return take_token(self.forward(x), index).squeeze(1)
