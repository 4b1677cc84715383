"""Weights of sources, turned into what a resampled order draws: runs of samples and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

WeightBy = Literal["sample", "shard", "source"]


class Pools(NamedTuple):
    """Runs of consecutive samples; one is drawn by its share, then a sample of it, each being equally probable."""

    starts: npt.NDArray[np.int64]  # id of the first sample
    lengths: npt.NDArray[np.int64]  # samples; at least 1
    shares: npt.NDArray[np.float64]  # probabilities; they sum to 1


class WeightedSource(NamedTuple):
    """A source as weights see it."""

    shards: int  # how many of the shards in a row are its own
    weight: float


def pools_of(counts: Sequence[int], sources: Sequence[WeightedSource], weight_by: WeightBy) -> Pools:
    """What is drawn, and how often.

    Args:
        counts: samples of each shard, of all sources in a row.
        sources: the sources, in the order of their shards.
        weight_by: what a weight belongs to. `sample`: every sample counts its source's weight. OpenCLIP's upsampling
            factors come to that in the long run: it draws shards by these weights, and each shows all its samples.
            `shard`: every shard counts its source's weight, whatever its size; this is how OpenCLIP's
            `ResampledShards2` draws. `source`: the weight is the source's share, whatever its size.
    """
    sizes = np.asarray(counts, np.int64)
    weights = np.array([source.weight for source in sources], np.float64)
    shards = np.array([source.shards for source in sources], np.int64)
    assert shards.sum() == len(sizes), "the sources' shards are not the shards"
    if weight_by == "shard":
        lengths = sizes
        shares = np.repeat(weights, shards) * (lengths > 0)
    else:
        borders = np.concatenate([[0], np.cumsum(shards)])
        totals = np.concatenate([[0], np.cumsum(sizes)])
        lengths = np.diff(totals[borders])
        shares = weights * lengths if weight_by == "sample" else weights * (lengths > 0)
    starts = np.cumsum(lengths) - lengths
    drawn = lengths > 0
    shares = shares[drawn]
    return Pools(starts[drawn], lengths[drawn], shares / shares.sum())
