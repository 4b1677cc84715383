"""Learning a teacher's similarities, exact over any split of the batch, in tiles.

With the student's logits S and the teacher's T over the global batch of B pairs, the loss is the mean over both
directions of the cross-entropy of the student's softmax against the teacher's (OpenCLIP's `distill_loss`):

    L = 1/(2B) * sum_ij softmax_j(T_ij) (LSE_j S_ij - S_ij) + 1/(2B) * sum_ij softmax_i(T_ij) (LSE_i S_ij - S_ij).

A logit bias, of student or teacher, cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from clip_trainer.loss.exchange import Exchange
from clip_trainer.loss.features import Features
from clip_trainer.loss.logits import Tile, global_log_sum_exp, tiles
from clip_trainer.loss.pairwise import DEFAULT_TILE, PairGradients, check_tile, pair_exchange, pair_loss, widened


class DistillationLoss:
    """Cross-entropy against a teacher's similarities over all pairs of a global batch.

    Args:
        tile: side of the blocks of the similarity matrices that exist at a time.

    Raises:
        ValueError: `tile` is not positive.
    """

    def __init__(self, tile: int = DEFAULT_TILE) -> None:
        self.tile = check_tile(tile)

    def __call__(
        self,
        student: Features,
        teacher: Features,
        group: dist.ProcessGroup | None = None,
        counts: Sequence[int] | None = None,
        *,
        exchange: Exchange | None = None,
    ) -> Tensor:
        """This rank's contribution: that of its own images and its own texts. See `pair_loss` for the gradients.

        Args:
            student: gets gradients; that of its bias is zero.
            teacher: gets none. Its width may differ from the student's.
            group: ranks that share the batch; None means the default group, or this process alone if there is none.
            counts: rows of each rank of the group; they may differ and may be 0. None means all have as many.
            exchange: in place of `group` and `counts`.

        Raises:
            ValueError: shapes, counts and group contradict each other, or the global batch is empty.
        """
        if len(teacher.image) != len(student.image) or teacher.image.shape != teacher.text.shape:
            raise ValueError(
                f"the teacher's features {tuple(teacher.image.shape)} and {tuple(teacher.text.shape)} are not of the "
                f"student's {len(student.image)} pairs"
            )
        exchange = exchange or pair_exchange(student.image, student.text, group, counts)
        kernel = _Kernel(teacher, self.tile)
        return pair_loss(kernel, student.image, student.text, student.scale, student.bias, exchange)


@dataclass(frozen=True)
class _Side:
    """Logits of student or teacher, and their normalisers: everything a tile needs."""

    scaled: Tensor
    blocks: Sequence[Tensor]
    row_lse: Tensor
    column_lse: Tensor

    @classmethod
    def of(cls, scaled: Tensor, blocks: Sequence[Tensor], exchange: Exchange, tile: int) -> _Side:
        return cls(scaled, blocks, *global_log_sum_exp(scaled, blocks, exchange, tile))

    def surprises(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """-log of the softmax over the row, and of that over the column, of the tile's entries."""
        row, block, inside, overall = tile
        logits = self.scaled[row] @ self.blocks[block][inside].T
        return self.row_lse[row, None] - logits, self.column_lse[overall] - logits


class _Kernel:
    """The loss for one batch of a teacher's features."""

    def __init__(self, teacher: Features, tile: int) -> None:
        self._image = widened(teacher.image.detach())
        self._text = widened(teacher.text.detach())
        self._scale = teacher.scale.detach().to(self._image.dtype).reshape(())
        self._tile = tile

    def __call__(
        self, scaled: Tensor, blocks: Sequence[Tensor], bias: Tensor, exchange: Exchange, differentiate: bool
    ) -> tuple[Tensor, PairGradients | None]:
        weight = 1 / (2 * sum(exchange.counts))
        student = _Side.of(scaled, blocks, exchange, self._tile)
        teacher = _Side.of(self._image * self._scale, exchange.gather_rows(self._text), exchange, self._tile)
        row_total, column_total = torch.zeros_like(student.row_lse), torch.zeros_like(student.column_lse)
        gradients = PairGradients(
            torch.zeros_like(scaled), [torch.zeros_like(block) for block in blocks], bias.new_zeros(())
        )
        for tile in tiles(len(scaled), exchange.counts, self._tile):
            row, block, inside, overall = tile
            by_row, by_column = student.surprises(tile)
            row_target, column_target = (torch.exp(-surprise).to(scaled) for surprise in teacher.surprises(tile))
            row_total[row] += (row_target * by_row).sum(dim=1)
            column_total[overall] += (column_target * by_column).sum(dim=0)
            if differentiate:
                slopes = by_row.neg_().exp_() - row_target + by_column.neg_().exp_() - column_target
                gradients.rows[row].addmm_(slopes, blocks[block][inside], alpha=weight)
                gradients.columns[block][inside].addmm_(slopes.T, scaled[row], alpha=weight)
        exchange.sum_(column_total)
        total = row_total.sum() + column_total[exchange.own_rows()].sum()
        return total * weight, gradients if differentiate else None
