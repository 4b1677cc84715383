"""The multimodal decoder of CoCa (arXiv 2205.01917): text attends to itself and to an image, block by block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_trainer.model.checkpointing import recompute
from clip_trainer.model.config import BlockConfig, MultimodalConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.layers import LayerNorm
from clip_trainer.model.transformer import ResidualAttentionBlock, Transformer

_MLP_RATIO = 4.0  # OpenCLIP does not pass the configuration's on


class CrossAttentionBlock(ResidualAttentionBlock):
    """A residual block whose attention goes from the text to another sequence of the same width.

    Args:
        width: width of both.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP divided by `width`.
        options: as in `ResidualAttentionBlock`.
        quick_gelu: activation of the MLP.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, options: BlockConfig, *, quick_gelu: bool) -> None:
        super().__init__(width, heads, mlp_ratio, options, quick_gelu=quick_gelu)
        self.ln_1_kv = LayerNorm(width)
        for name in ("ln_2", "mlp", "ls_2"):
            # Behind the norm: optimiser checkpoints of OpenCLIP number parameters in its order.
            self._modules[name] = self._modules.pop(name)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        """Map [n, tokens, width] to the same shape, given what to look at [n, others, width]."""
        return self._finish(x, self.attn.cross(self.ln_1(x), self.ln_1_kv(context)))


class CaptionDecoder(Transformer):
    """Text states and image tokens -> scores of the next token at every position.

    Args:
        config: shape of the decoder.
        vocabulary: number of token ids.
        quick_gelu: activation of the MLPs.
    """

    def __init__(self, config: MultimodalConfig, vocabulary: int, *, quick_gelu: bool) -> None:
        options = BlockConfig(ls_init_value=config.ls_init_value)
        super().__init__(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=_MLP_RATIO,
            options=options,
            quick_gelu=quick_gelu,
            causal=True,
        )
        self.context_length = config.context_length
        self.cross_attn = nn.ModuleList(
            CrossAttentionBlock(config.width, config.heads, _MLP_RATIO, options, quick_gelu=quick_gelu)
            for _ in range(config.layers)
        )
        self.ln_final = LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, vocabulary))

    def forward(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:  # type: ignore[override]
        """Scores [n, text tokens, vocabulary].

        Args:
            image_embs: [n, image tokens, width].
            text_embs: [n, text tokens, width], states of a causal text tower (they carry the positions).
        """
        x = self.states(image_embs, text_embs)
        return x @ self.text_projection.to(x.dtype)

    def states(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:
        """What `forward` projects to scores: [n, text tokens, width]."""
        x = text_embs
        for block, cross in zip(self.resblocks, self.cross_attn, strict=True):
            x = recompute(block, x, enabled=self.grad_checkpointing, causal=True)
            x = recompute(cross, x, image_embs, enabled=self.grad_checkpointing)
        normed: Tensor = self.ln_final(x)
        return normed

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass."""
        self.grad_checkpointing = enable

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill the projection (OpenCLIP leaves it uninitialised); the blocks keep torch's defaults, as there."""
        streams.normal(self.text_projection, self.width**-0.5, f"{prefix}text_projection")
