"""Position embeddings for another image size or context length, resampled the way OpenCLIP does it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from clipctl.contract.errors import CorruptError


def resize_grid(embedding: Tensor, grid: tuple[int, int], extra: int = 1) -> Tensor:
    """Resample the embeddings of a square grid of positions, bicubic with antialiasing.

    Args:
        embedding: [extra + side², width]; positions row by row.
        grid: rows and columns wanted.
        extra: leading embeddings that stand for no position (the class token); kept as they are.

    Returns:
        [extra + rows columns, width], in the type of `embedding`.

    Raises:
        CorruptError: the positions of `embedding` are not a square.
    """
    if len(embedding) == extra + grid[0] * grid[1]:
        return embedding
    positions = embedding[extra:].float()
    side = math.isqrt(len(positions))
    if side * side != len(positions):
        raise CorruptError(
            f"The {len(positions)} position embeddings of the weights are not a square and cannot be resized to "
            f"{grid[0]}x{grid[1]}.",
            hint="Use the image size the weights were made for.",
        )
    image = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
    flat = resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([embedding[:extra], flat.to(embedding.dtype)])


def resize_sequence(embedding: Tensor, length: int) -> Tensor:
    """Resample the embeddings of a sequence of positions linearly: [n, width] -> [length, width]."""
    if len(embedding) == length:
        return embedding
    line = embedding.float().T[None]
    resized = functional.interpolate(line, size=length, mode="linear", align_corners=False)
    return resized[0].T.to(embedding.dtype)
