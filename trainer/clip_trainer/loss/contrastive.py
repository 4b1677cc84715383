"""The symmetric contrastive loss of CLIP, exact over any split of the batch, in memory linear in the batch.

With S = scale * I T^T over the global batch of B pairs, the loss is the mean of the two cross-entropies

    L = 1/(2B) * sum_i (LSE_j S_ij - S_ii) + 1/(2B) * sum_j (LSE_i S_ij - S_jj)       (arXiv 2103.00020, figure 3).

Rank r owns the rows of its own images, so only the texts are gathered. Row sums are local; column sums are combined
from a maximum and a sum per column. The backward pass forms each rank's share of dT and reduce-scatters it. Against
gathering both modalities this moves half the bytes, does 4 matrix products in place of 6, and stores tiles only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from clip_trainer.loss.exchange import Exchange, exchange_for
from clip_trainer.loss.logits import log_sum_exp, softmax_gradients


class LossOutput(NamedTuple):
    """A rank's part of the loss."""

    contribution: Tensor
    """0-d. Summed over ranks it is the loss of the global batch; its gradients, summed over ranks, are the loss's."""


class ContrastiveLoss:
    """CLIP's loss over all pairs of a global batch.

    Sum, not average, gradients over ranks afterwards: each rank's gradient is its share of the whole. Every rank must
    call the loss and its backward pass (they contain collectives), with the same upstream gradient.

    Args:
        tile: side of the blocks of the similarity matrix that exist at a time.

    Raises:
        ValueError: `tile` is not positive.
    """

    def __init__(self, tile: int = 1024) -> None:
        if tile < 1:
            raise ValueError(f"tile must be positive, not {tile}")
        self.tile = tile

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        group: dist.ProcessGroup | None = None,
        counts: Sequence[int] | None = None,
    ) -> LossOutput:
        """This rank's contribution.

        Args:
            image_features: [b, d], rows of unit length.
            text_features: [b, d], row i describes image i.
            logit_scale: 0-d inverse temperature (already exponentiated).
            group: ranks that share the batch; None means the default group, or this process alone if there is none.
            counts: b of each rank of the group; they may differ and may be 0. None means all have b.

        Raises:
            ValueError: shapes, counts and group contradict each other, or the global batch is empty.
        """
        if image_features.shape != text_features.shape or image_features.ndim != 2:
            raise ValueError(
                f"image and text features differ in shape: {tuple(image_features.shape)} and "
                f"{tuple(text_features.shape)}"
            )
        exchange = exchange_for(len(image_features), group, counts)
        if sum(exchange.counts) == 0:
            raise ValueError("the global batch is empty")
        # Half-precision features are widened: sums over a large batch need float32, and this is a tiny part of a step.
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        contribution = _TiledLoss.apply(
            image_features.to(dtype), text_features.to(dtype), logit_scale.to(dtype), exchange, self.tile
        )
        assert isinstance(contribution, Tensor)
        return LossOutput(contribution)


class _TiledLoss(torch.autograd.Function):
    """The loss with its own backward pass, which recomputes tiles in place of storing them."""

    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, text: Tensor, scale: Tensor, exchange: Exchange, tile: int) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            blocks = exchange.gather_rows(text)
            scaled = image * scale
            rows, columns = log_sum_exp(scaled, blocks, tile)
            maximum = columns.maximum.clone()
            exchange.max_(maximum)
            columns.rescale(maximum)
            exchange.sum_(columns.total)
            row_lse, column_lse = rows.value(), columns.value()
            start = sum(exchange.counts[: exchange.rank])
            own_columns = column_lse[start : start + len(image)]
            diagonal = (scaled * text).sum()
            total = row_lse.sum() + own_columns.sum() - 2 * diagonal
        ctx.save_for_backward(image, scale, row_lse, column_lse, *blocks)
        ctx.exchange, ctx.tile = exchange, tile  # type: ignore[attr-defined]
        return total / (2 * sum(exchange.counts))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        image, scale, row_lse, column_lse, *blocks = ctx.saved_tensors  # type: ignore[attr-defined]
        exchange: Exchange = ctx.exchange  # type: ignore[attr-defined]
        tile: int = ctx.tile  # type: ignore[attr-defined]
        with torch.autocast(image.device.type, enabled=False):
            scaled = image * scale
            own = blocks[exchange.rank]
            d_scaled, d_blocks = softmax_gradients(scaled, blocks, row_lse, column_lse, tile)
            d_scaled -= 2 * own
            d_blocks[exchange.rank] -= 2 * scaled
            weight = upstream / (2 * sum(exchange.counts))
            d_text = exchange.reduce_rows(d_blocks) * weight
            # S depends on the scale through the scaled rows only, and every entry of S lies on one rank.
            d_scale = (d_scaled * image).sum() * weight
        return d_scaled * (scale * weight), d_text, d_scale, None, None
