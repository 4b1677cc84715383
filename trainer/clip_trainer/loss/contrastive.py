"""The symmetric contrastive loss of CLIP, exact over any split of the batch, in memory linear in the batch.

With S = scale * I T^T over the global batch of B pairs, the loss is the mean of the two cross-entropies

    L = 1/(2B) * sum_i (LSE_j S_ij - S_ii) + 1/(2B) * sum_j (LSE_i S_ij - S_jj)       (arXiv 2103.00020, figure 3).

Row sums are local; column sums are combined from a maximum and a sum per column. Against gathering both modalities
this moves half the bytes, does 4 matrix products in place of 6, and stores tiles only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from clip_trainer.loss.exchange import Exchange
from clip_trainer.loss.logits import global_log_sum_exp, softmax_gradients
from clip_trainer.loss.pairwise import DEFAULT_TILE, PairGradients, check_tile, pair_exchange, pair_loss


class ContrastiveLoss:
    """CLIP's loss over all pairs of a global batch.

    Args:
        tile: side of the blocks of the similarity matrix that exist at a time.

    Raises:
        ValueError: `tile` is not positive.
    """

    def __init__(self, tile: int = DEFAULT_TILE) -> None:
        self.tile = check_tile(tile)

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        group: dist.ProcessGroup | None = None,
        counts: Sequence[int] | None = None,
        *,
        logit_bias: Tensor | None = None,
        exchange: Exchange | None = None,
    ) -> Tensor:
        """This rank's contribution: that of its own images and its own texts. See `pair_loss` for the gradients.

        Args:
            image_features: [b, d], rows of unit length.
            text_features: [b, d], row i describes image i.
            logit_scale: 0-d inverse temperature (already exponentiated).
            group: ranks that share the batch; None means the default group, or this process alone if there is none.
            counts: b of each rank of the group; they may differ and may be 0. None means all have b.
            logit_bias: has no influence, as a softmax does not change with an offset; its gradient is zero.
            exchange: in place of `group` and `counts`.

        Raises:
            ValueError: shapes, counts and group contradict each other, or the global batch is empty.
        """
        exchange = exchange or pair_exchange(image_features, text_features, group, counts)
        return pair_loss(self._kernel, image_features, text_features, logit_scale, logit_bias, exchange)

    def _kernel(
        self, scaled: Tensor, blocks: Sequence[Tensor], bias: Tensor, exchange: Exchange, differentiate: bool
    ) -> tuple[Tensor, PairGradients | None]:
        row_lse, column_lse = global_log_sum_exp(scaled, blocks, exchange, self.tile)
        own = blocks[exchange.rank]
        diagonal = (scaled * own).sum(dim=1)
        excess = (row_lse - diagonal) + (column_lse[exchange.own_rows()] - diagonal)
        weight = 1 / (2 * sum(exchange.counts))
        contribution = excess.sum() * weight
        if not differentiate:
            return contribution, None
        d_scaled, d_blocks = softmax_gradients(scaled, blocks, row_lse, column_lse, self.tile)
        d_scaled -= 2 * own
        d_blocks[exchange.rank] -= 2 * scaled
        for gradient in (d_scaled, *d_blocks):
            gradient *= weight
        return contribution, PairGradients(d_scaled, d_blocks, bias.new_zeros(()))
