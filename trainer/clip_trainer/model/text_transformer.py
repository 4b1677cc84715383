"""The text tower: a causal transformer pooled at the end-of-text token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.config import TextConfig
from clip_trainer.model.transformer import LayerNorm, Transformer


class TextTransformer(nn.Module):
    """Tokens -> causal transformer -> projected end-of-text token.

    Args:
        config: shape of the tower.
        embed_dim: width of the shared embedding space.
        quick_gelu: activation of the MLPs.
        pooled_last_block: compute the last block for the pooled token only (exact, faster).
    """

    def __init__(self, config: TextConfig, embed_dim: int, *, quick_gelu: bool, pooled_last_block: bool) -> None:
        super().__init__()
        self.context_length = config.context_length
        self.vocab_size = config.vocab_size
        self.pooled_last_block = pooled_last_block
        # Not nn.Embedding(...): its own normal_() on the meta device imports torch's compiler, 4 CPU-seconds a start.
        table = torch.empty(config.vocab_size, config.width)
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.transformer = Transformer(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            quick_gelu=quick_gelu,
            causal=True,
        )
        self.ln_final = LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, embed_dim))

    def encode_text(self, text: Tensor, normalize: bool = False, text_length: int | None = None) -> Tensor:
        """Embed token ids as [n, embed_dim].

        Args:
            text: [n, context_length] int64; the end-of-text token has the largest id of its row.
            normalize: scale each row to unit length.
            text_length: columns to compute, at least the longest caption of the batch with its end-of-text token.
                Later columns are padding that a causal tower never shows to the pooled token, so the result is the
                same. A Python int from the loader rather than a maximum taken here: no device synchronisation, and
                shapes stay known to a compiler. None computes all columns.
        """
        text = text if text_length is None else text[:, :text_length]
        dtype = self.transformer.dtype
        x = self.token_embedding(text).to(dtype) + self.positional_embedding[: text.shape[1]].to(dtype)
        end_of_text = text.argmax(dim=-1)
        pooled = self.transformer.pooled(x, end_of_text, pooled_last_block=self.pooled_last_block)
        features: Tensor = self.ln_final(pooled) @ self.text_projection
        return functional.normalize(features, dim=-1) if normalize else features
