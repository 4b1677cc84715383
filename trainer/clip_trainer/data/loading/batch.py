"""What the loaders hand out, and what they count."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch


class Replacement(NamedTuple):
    """A sample that could not be used, and the one shown (or, in evaluation, skipped) in its place."""

    sample_id: int
    key: str
    shard: str
    reason: str
    used_id: int | None


@dataclass
class Batch:
    """One rank's part of one global batch, ordered by lane and position."""

    images: torch.Tensor  # uint8 [n, 3, H, W], channels last in memory
    tokens: torch.Tensor  # int64 [n, context_length]
    text_lengths: torch.Tensor  # int32 [n], tokens of each caption up to and including the end of text
    text_max_len: int  # of the longest caption of this part; 0 if n is 0
    sample_ids: npt.NDArray[np.uint64]  # [n] the samples whose turn it is; replaced ones keep their own id here
    position_start: int  # of the global batch
    position_end: int  # samples consumed once this batch's step is done
    counts: tuple[int, ...]  # samples of every rank in this global batch
    replaced: tuple[Replacement, ...]
    wait_seconds: float  # how long the caller waited for it


def caption_lengths(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Tokens of each caption, start and end included: [n, context_length], padded with 0, to int32 [n].

    Padding is recognised by its id and not the end by being the largest: not every vocabulary ends with its end token.
    """
    used = tokens != 0
    lengths = np.where(used.any(axis=1), tokens.shape[1] - used[:, ::-1].argmax(axis=1), 0)
    return lengths.astype(np.int32)


class LoaderCounters:
    """Counts over the life of a loader; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples = 0
        self._wait_seconds = 0.0
        self._replaced: Counter[str] = Counter()

    def add(self, *, samples: int = 0, wait_seconds: float = 0.0, replaced: tuple[Replacement, ...] = ()) -> None:
        """Add to the counts."""
        with self._lock:
            self._samples += samples
            self._wait_seconds += wait_seconds
            self._replaced.update(replacement.reason for replacement in replaced)

    def snapshot(self) -> dict[str, Any]:
        """The counts now: samples, wait_seconds, and replaced by reason."""
        with self._lock:
            return {
                "samples": self._samples,
                "wait_seconds": self._wait_seconds,
                "replaced": dict(self._replaced),
            }
