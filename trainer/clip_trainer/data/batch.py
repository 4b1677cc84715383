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

    images: torch.Tensor  # uint8 [n, 3, H, W]
    tokens: torch.Tensor  # int64 [n, context_length]
    text_max_len: int  # longest caption of this part, in tokens up to and including the end of text; 0 if n is 0
    sample_ids: npt.NDArray[np.uint64]  # [n] the samples whose turn it is; replaced ones keep their own id here
    position_start: int  # of the global batch
    position_end: int  # samples consumed once this batch's step is done
    counts: tuple[int, ...]  # samples of every rank in this global batch
    replaced: tuple[Replacement, ...]
    wait_seconds: float  # how long the caller waited for it


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
