"""SigLIP's sigmoid loss (arXiv 2303.15343, algorithm 1), exact over any split of the batch, in tiles.

With logits S_ij = scale * <image_i, text_j> + bias, and z_ij = 1 for i = j and -1 otherwise,

    L = -1/B * sum_ij log sigmoid(z_ij S_ij) = 1/B * sum_ij softplus(-z_ij S_ij).

Each entry stands for itself, so one pass over the tiles gives loss and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clip_trainer.loss.exchange import Exchange
from clip_trainer.loss.logits import tiles
from clip_trainer.loss.pairwise import PairGradients, PairLoss


class SigmoidLoss(PairLoss):
    """SigLIP's loss: a rank contributes its own images with all texts."""

    def kernel(
        self, scaled: Tensor, blocks: Sequence[Tensor], bias: Tensor, exchange: Exchange, differentiate: bool
    ) -> tuple[Tensor, PairGradients | None]:
        """See `PairKernel`."""
        weight = 1 / sum(exchange.counts)
        total = bias.new_zeros(())
        gradients = PairGradients(
            torch.zeros_like(scaled), [torch.zeros_like(block) for block in blocks], bias.new_zeros(())
        )
        for row, block, inside, _ in tiles(len(scaled), exchange.counts, self.tile):
            columns = blocks[block][inside]
            penalties = torch.addmm(bias, scaled[row], columns.T)
            matching = row.start - inside.start if block == exchange.rank else None
            _flip(penalties, matching)
            total += functional.softplus(penalties).sum()
            if differentiate:
                slopes = _flip(penalties.sigmoid_(), matching)
                gradients.rows[row].addmm_(slopes, columns, alpha=weight)
                gradients.columns[block][inside].addmm_(slopes.T, scaled[row], alpha=weight)
                gradients.bias.add_(slopes.sum(), alpha=weight)
        return total * weight, gradients if differentiate else None


def _flip(tile: Tensor, matching: int | None) -> Tensor:
    """Change the sign of the matching pairs, in place; `matching` is their diagonal if they can be in this tile."""
    if matching is not None and -tile.shape[0] < matching < tile.shape[1]:
        tile.diagonal(matching).neg_()
    return tile
