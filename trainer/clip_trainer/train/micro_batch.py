"""The pieces of a rank's batch that go through the towers at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from clip_trainer.data.loading.batch import Batch
from clip_trainer.data.order.prp import U64, derive

_LENGTH_MULTIPLE = 8


class MicroBatch(NamedTuple):
    """What the towers see at once."""

    images: torch.Tensor
    """uint8 [n, 3, h, w]."""
    tokens: torch.Tensor
    """int64 [n, context]."""
    text_length: int
    """Of the longest caption in it."""
    keys: U64
    """[n], decide the randomness of each sample; the same whichever rank and piece it is in."""


def split(batch: Batch, size: int, *, equally: bool = False) -> Iterator[MicroBatch]:
    """Cut the rank's samples into micro-batches of `size`; the last may be shorter. Without samples, one empty piece.

    The text length is rounded up so that few different shapes occur, which compilers and allocators like.

    Args:
        batch: this rank's part of the global batch.
        size: most samples of a piece.
        equally: add empty pieces until there are as many as on the rank that has most samples.
    """
    samples, context = batch.tokens.shape
    longest = max(1, batch.text_max_len)  # towers want at least one token, also of no samples
    length = min(context, -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE)
    keys = derive(np.full_like(batch.sample_ids, batch.position_start), batch.sample_ids)
    most = max(batch.counts) if equally else samples
    for start in range(0, max(most, 1), size):
        end = start + size
        yield MicroBatch(batch.images[start:end], batch.tokens[start:end], length, keys[start:end])
