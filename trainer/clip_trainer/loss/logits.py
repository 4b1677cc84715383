"""Softmax statistics and gradients of a similarity matrix that is never stored, tile by tile.

For rows i here and columns j everywhere, S_ij = <a_i, t_j> with a_i = scale * image_i. Every entry of the global
matrix belongs to exactly one rank, and at most one tile of it exists at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_trainer.loss.exchange import Exchange


@dataclass
class LogSumExp:
    """log(sum(exp(x))) of many vectors, fed in pieces, without overflow (a running maximum and scaled sum)."""

    maximum: Tensor
    """Largest value so far, -inf at the start."""
    total: Tensor
    """sum(exp(x - maximum)) so far."""

    @classmethod
    def empty(cls, count: int, like: Tensor) -> LogSumExp:
        """`count` vectors without values, in the type and on the device of `like`."""
        return cls(like.new_full((count,), -math.inf), like.new_zeros(count))

    def add(self, where: slice, values: Tensor, dim: int) -> None:
        """Feed the vectors `where` with `values`, whose dimension `dim` is summed over."""
        maximum = torch.maximum(self.maximum[where], values.amax(dim))
        earlier = self.total[where] * torch.exp(self.maximum[where] - maximum)
        self.total[where] = earlier + torch.exp(values - maximum.unsqueeze(dim)).sum(dim)
        self.maximum[where] = maximum

    def rescale(self, maximum: Tensor) -> None:
        """Switch to a larger maximum (another rank's), elementwise."""
        # A vector without values here (-inf) contributes nothing, whatever the maximum.
        self.total = self.total * torch.exp(self.maximum - maximum)
        self.maximum = maximum

    def value(self) -> Tensor:
        """The result, one number a vector."""
        return self.maximum + self.total.log()


Tile = tuple[slice, int, slice, slice]
"""Rows here, block (rank) of the columns, columns in the block, columns in the global batch."""


def tiles(rows: int, counts: Sequence[int], size: int) -> Iterator[Tile]:
    """Cut the [rows, sum(counts)] matrix into tiles of at most size x size that stay inside one rank's columns."""
    offset = 0
    for block, count in enumerate(counts):
        for column in range(0, count, size):
            inside = slice(column, min(column + size, count))
            overall = slice(offset + inside.start, offset + inside.stop)
            for row in range(0, rows, size):
                yield slice(row, min(row + size, rows)), block, inside, overall
        offset += count


def log_sum_exp(scaled: Tensor, blocks: Sequence[Tensor], size: int) -> tuple[LogSumExp, LogSumExp]:
    """Row and column statistics of S over the rows here.

    Args:
        scaled: [b, d], the rows times the scale.
        blocks: the columns, one [counts[r], d] a rank.
        size: side of a tile.
    """
    counts = [len(block) for block in blocks]
    rows, columns = LogSumExp.empty(len(scaled), scaled), LogSumExp.empty(sum(counts), scaled)
    for row, block, inside, overall in tiles(len(scaled), counts, size):
        logits = scaled[row] @ blocks[block][inside].T
        rows.add(row, logits, dim=1)
        columns.add(overall, logits, dim=0)
    return rows, columns


def global_log_sum_exp(
    scaled: Tensor, blocks: Sequence[Tensor], exchange: Exchange, size: int
) -> tuple[Tensor, Tensor]:
    """log(sum(exp(S))) of the rows here [b], and of all columns over the rows of all ranks [sum(counts)]. Collective.

    Args:
        scaled: [b, d], the rows times the scale.
        blocks: the columns, one [counts[r], d] a rank.
        exchange: with the ranks that hold the other rows.
        size: side of a tile.
    """
    rows, columns = log_sum_exp(scaled, blocks, size)
    maximum = columns.maximum.clone()
    exchange.max_(maximum)
    columns.rescale(maximum)
    exchange.sum_(columns.total)
    return rows.value(), columns.value()


def softmax_gradients(
    scaled: Tensor, blocks: Sequence[Tensor], row_lse: Tensor, column_lse: Tensor, size: int
) -> tuple[Tensor, list[Tensor]]:
    """Gradient of sum(row_lse) + sum(column_lse) with respect to the scaled rows and to the columns.

    d/dS is softmax by rows plus softmax by columns; each tile of S is computed again rather than kept.

    Args:
        scaled: [b, d], the rows times the scale.
        blocks: the columns, one [counts[r], d] a rank.
        row_lse: [b], over all columns.
        column_lse: [sum(counts)], over the rows of all ranks.
        size: side of a tile.

    Returns:
        The gradient of the rows, complete, and this rank's share of the gradient of each block of columns.
    """
    row_gradient = torch.zeros_like(scaled)
    column_gradients = [torch.zeros_like(block) for block in blocks]
    for row, block, inside, overall in tiles(len(scaled), [len(b) for b in blocks], size):
        logits = scaled[row] @ blocks[block][inside].T
        probabilities = torch.exp(logits - row_lse[row, None])
        probabilities += logits.sub_(column_lse[overall]).exp_()
        row_gradient[row].addmm_(probabilities, blocks[block][inside])
        column_gradients[block][inside].addmm_(probabilities.T, scaled[row])
    return row_gradient, column_gradients
