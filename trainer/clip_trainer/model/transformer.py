"""The pre-norm residual transformer both towers are made of (module names as in OpenCLIP)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clip_trainer.model.attention import SelfAttention, take_token
from clip_trainer.model.checkpointing import recompute
from clip_trainer.model.config import BlockConfig
from clip_trainer.model.intermediates import wanted_indices
from clip_trainer.model.layers import Mlp, make_norm, make_scale


class ResidualAttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with whatever the options add to the branches.

    Args:
        width: width of the residual stream.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP divided by `width`.
        options: layer scale, arguments of norms and activation, and the parts of a custom block.
        quick_gelu: activation of the MLP.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, options: BlockConfig, *, quick_gelu: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        custom, norms = options.custom_block, options.norm_kwargs
        self.ln_1 = make_norm(width, norms)
        self.attn = SelfAttention(width, heads, options if custom else None)
        self.ln_attn = make_norm(width, norms) if custom and options.scale_attn else nn.Identity()
        self.ls_1 = make_scale(width, options.ls_init_value)
        self.ln_2 = make_norm(width, norms)
        inner = make_norm(hidden, norms) if custom and options.scale_fc else None
        self.mlp = Mlp(width, hidden, quick_gelu=quick_gelu, act_kwargs=options.act_kwargs, norm=inner)
        self.ls_2 = make_scale(width, options.ls_init_value)

    def forward(self, x: Tensor, *, causal: bool = False, visible: Tensor | None = None) -> Tensor:
        """Map [n, tokens, width] to the same shape (see `SelfAttention` for who sees whom)."""
        return self._finish(x, self.attn(self.ln_1(x), causal=causal, visible=visible))

    def at(self, x: Tensor, index: Tensor, *, causal: bool = False, visible: Tensor | None = None) -> Tensor:
        """What `forward` returns at token `index[i]` of each row, computing only that: [n, 1, width]."""
        attended = self.attn.at(self.ln_1(x), index, causal=causal, visible=visible)
        return self._finish(take_token(x, index), attended)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Both residual sums, from the output of attention on."""
        x = x + self.ls_1(self.ln_attn(attended))
        out: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return out


class Transformer(nn.Module):
    """A stack of residual blocks.

    Args:
        width: width of the residual stream.
        layers: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP divided by `width`.
        options: what the blocks have beyond the plain ones.
        quick_gelu: activation of the MLPs.
        causal: hide later tokens from earlier ones.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        options: BlockConfig,
        quick_gelu: bool,
        causal: bool,
    ) -> None:
        super().__init__()
        self.width = width
        self.layers = layers
        self.causal = causal
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, heads, mlp_ratio, options, quick_gelu=quick_gelu) for _ in range(layers)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision the blocks compute in (when autocast does not decide)."""
        block = self.resblocks[0]
        assert isinstance(block, ResidualAttentionBlock)
        return block.mlp.c_fc.weight.dtype

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """All tokens after all blocks: [n, tokens, width] -> the same shape.

        Args:
            x: the tokens.
            visible: which keys each query sees, in place of the causal rule: bool [n, 1, tokens, tokens].
        """
        for block in self.resblocks:
            x = self._run(block, x, visible)
        return x

    def at(self, x: Tensor, index: Tensor, visible: Tensor | None = None) -> Tensor:
        """`forward(x)` at token `index[i]` of each row: [n, width].

        The last block is computed for that token alone. Nothing else of its output reaches the loss, so value and
        gradients are those of `forward`; it saves about one block's MLP and output projection.
        """
        *earlier, last = self.resblocks
        for block in earlier:
            x = self._run(block, x, visible)
        assert isinstance(last, ResidualAttentionBlock)
        return last.at(x, index, causal=self.causal, visible=visible).squeeze(1)

    def pooled(self, x: Tensor, index: Tensor, visible: Tensor | None = None, *, pooled_last_block: bool) -> Tensor:
        """The final state of token `index[i]` of each row, by the short way or by computing all tokens."""
        if pooled_last_block:
            return self.at(x, index, visible)
        return take_token(self.forward(x, visible), index).squeeze(1)

    def forward_intermediates(
        self,
        x: Tensor,
        visible: Tensor | None = None,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """The tokens after the last computed block, and those after each wanted one.

        Args:
            x: [n, tokens, width].
            visible: see `forward`.
            indices: wanted blocks: the last n, the given ones, or all (None).
            stop_early: compute no block after the last wanted one.

        Raises:
            ValueError: an index is out of range.
        """
        wanted = wanted_indices(len(self.resblocks), indices)
        blocks = list(self.resblocks)[: max(wanted) + 1] if stop_early else list(self.resblocks)
        found = []
        for index, block in enumerate(blocks):
            x = self._run(block, x, visible)
            if index in wanted:
                found.append(x)
        return x, found

    def _run(self, block: nn.Module, x: Tensor, visible: Tensor | None) -> Tensor:
        out: Tensor = recompute(block, x, enabled=self.grad_checkpointing, causal=self.causal, visible=visible)
        return out
