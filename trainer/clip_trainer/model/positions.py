"""Fixed position embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def sin_cos_2d(width: int, rows: int, columns: int) -> Tensor:
    """Sines and cosines of column and row of every patch, after a zero vector for the class token.

    Half of the channels encodes the column, half the row; each half is sin(p w_k) for all k, then cos(p w_k), with
    w_k = 10000^(-4 k / width) (arXiv 1706.03762, in two dimensions as in MoCo v3, arXiv 2104.02057).

    Args:
        width: channels; a multiple of 4.
        rows: height of the grid.
        columns: width of the grid.

    Returns:
        float32 [1 + rows columns, width], patches row by row.
    """
    assert width % 4 == 0
    steps = torch.arange(width // 4, dtype=torch.float64) / (width / 4)
    frequencies = 10000.0**-steps
    column = torch.arange(columns, dtype=torch.float64).repeat(rows)
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    angles = [position[:, None] * frequencies for position in (column, row)]
    patches = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), patches]).float()
