"""What a step consumed, as numbers that do not depend on how the samples were spread over ranks."""

from __future__ import annotations

import numpy as np
import torch

_MIX = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def sample_digest(sample_ids: np.ndarray, position: int) -> torch.Tensor:
    """Sum over samples of a 64-bit hash of (sample id, position of the batch), as an int64 scalar.

    A sum modulo 2**64 is the same however the samples are split and ordered, so the ranks' digests can be all-reduced.
    The hash is splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        mixed = sample_ids.astype(np.uint64) + _MIX * np.uint64(position + 1)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MULTIPLY[0]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MULTIPLY[1]
        mixed ^= mixed >> np.uint64(31)
        total = mixed.sum(dtype=np.uint64)
    return torch.tensor(int(total.view(np.int64)), dtype=torch.int64)
