"""From the tokens of a vision transformer to the image feature."""

from __future__ import annotations

from torch import Tensor, nn

from clip_trainer.model.attention_pool import AttentionalPooler
from clip_trainer.model.config import VisionConfig


class VisionPool:
    """How a tower pools. It holds no parameters: their keys belong to the tower.

    Args:
        config: of the tower.
    """

    def __init__(self, config: VisionConfig) -> None:
        self._config = config

    @property
    def class_token_only(self) -> bool:
        """Whether the class token of the last block is all that reaches the feature."""
        config = self._config
        return config.pool_type == "tok" and not config.attentional_pool and not config.output_tokens

    def make_poolers(self, embed_dim: int) -> tuple[AttentionalPooler | None, AttentionalPooler | None]:
        """The attentional pooler of the tokens and the one of the contrastive feature, where there are such."""
        config = self._config
        if not config.attentional_pool:
            return None, None
        heads = config.attn_pooler_heads
        tokens = AttentionalPooler(embed_dim, config.width, heads=heads, queries=config.attn_pooler_queries)
        if config.attentional_pool is True:
            return tokens, None
        return tokens, AttentionalPooler(embed_dim, config.width, heads=heads, queries=1)

    def __call__(
        self, x: Tensor, norm: nn.Module, pooler: AttentionalPooler | None, contrastive: AttentionalPooler | None
    ) -> tuple[Tensor, Tensor]:
        """The feature before its projection, and the tokens beside it.

        Args:
            x: [n, 1 + patches, width], the last block's output.
            norm: the final layer norm.
            pooler: see `make_poolers`.
            contrastive: see `make_poolers`.
        """
        if pooler is None:
            if not self._config.final_ln_after_pool:
                return self._take(norm(x))
            pooled, tokens = self._take(x)
            return norm(pooled), tokens
        if contrastive is None:
            # Norm and choice of token follow the pooler, which is what published CoCa weights are made for.
            return self._take(norm(pooler(x)))
        x = norm(x)
        tokens = pooler(x)
        return contrastive(x if self._config.attentional_pool == "parallel" else tokens), tokens

    def _take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._config.pool_type == "avg":
            return x[:, 1:].mean(dim=1), x[:, 1:]
        if self._config.pool_type == "tok":
            return x[:, 0], x[:, 1:]
        return x, x
