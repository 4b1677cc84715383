"""The symmetric contrastive loss of CLIP, exact over any split of the batch, in memory linear in the batch.

With S = scale * I T^T over the global batch of B pairs, the loss is the mean of the two cross-entropies

    L = 1/(2B) * sum_i (LSE_j S_ij - S_ii) + 1/(2B) * sum_j (LSE_i S_ij - S_jj)       (arXiv 2103.00020, figure 3).

Row sums are local; column sums are combined from a maximum and a sum per column. Against gathering both modalities
this moves half the bytes, does 4 matrix products in place of 6, and stores tiles only.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clip_trainer.loss.exchange import Exchange
from clip_trainer.loss.logits import global_log_sum_exp, softmax_gradients
from clip_trainer.loss.pairwise import PairGradients, PairLoss


class ContrastiveLoss(PairLoss):
    """CLIP's loss: a rank contributes its own images and its own texts. Without influence of a logit bias."""

    def kernel(
        self, scaled: Tensor, blocks: Sequence[Tensor], bias: Tensor, exchange: Exchange, differentiate: bool
    ) -> tuple[Tensor, PairGradients | None]:
        """See `PairKernel`."""
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
