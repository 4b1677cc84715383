"""`clipctl data stats`: what the index alone says about a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from clip_trainer.data.check.histogram import Histogram, doubling, histogram
from clip_trainer.data.index.dataset import Dataset
from clip_trainer.data.index.format import ShardIndex

SIZED_SAMPLES = 500_000
"""Samples whose sizes are looked at: enough for a histogram, and done in a second."""


@dataclass(frozen=True)
class DatasetStats:
    """A data set in figures. Sizes in bytes, tar headers and padding included."""

    data: str
    shards: int
    samples: int
    bytes: int
    samples_per_shard: Histogram
    bytes_per_shard: Histogram
    bytes_per_sample: Histogram
    """Of `bytes_per_sample.total` samples, whole shards evenly spread over the data set."""
    suffixes: dict[str, int]
    """How many samples have which member; samples that the rules left out count too."""
    with_image: int
    with_caption: int
    with_class: int
    shards_with_etag: int
    shards_with_xxh3: int
    rules: dict[str, Any]
    """By which samples were chosen when the index was made; empty for none."""
    left_out: dict[str, int]
    """Samples that the rules left out, by reason."""
    damaged: dict[str, str]
    """Shards left out because they are damaged, and their problems."""
    digest: str
    """Of the index."""
    identity: str
    """Of names and content: equal for copies."""


def dataset_stats(dataset: Dataset, sized_samples: int = SIZED_SAMPLES) -> DatasetStats:
    """Sum up an index. Reads no shard.

    Args:
        dataset: opened data set.
        sized_samples: about how many samples to take the sizes of, at least one shard.
    """
    index, header, columns = dataset.index, dataset.index.header, dataset.index.table.columns
    sample_sizes = _sample_sizes(index, sized_samples)
    return DatasetStats(
        data=dataset.url,
        shards=len(index.shards),
        samples=index.samples,
        bytes=index.total_bytes,
        samples_per_shard=_doubling_histogram(Counter(columns["samples"])),
        bytes_per_shard=_doubling_histogram(Counter(columns["bytes"]), 1024),
        bytes_per_sample=_doubling_histogram(sample_sizes, 1024),
        suffixes=dict(Counter(header.suffixes).most_common()),
        with_image=sum(columns["images"]),
        with_caption=sum(columns["captions"]),
        with_class=sum(columns["classes"]),
        shards_with_etag=_longer_than_nothing(columns["etag_end"]),
        shards_with_xxh3=sum(map(bool, columns["xxh3_low"])),
        rules=header.rules.to_json(),
        left_out=dict(Counter(header.left_out).most_common()),
        damaged=dict(header.damaged),
        digest=index.digest,
        identity=index.identity,
    )


def _sample_sizes(index: ShardIndex, wanted: int) -> Counter[int]:
    """Sizes of the samples of every n-th shard, so that about `wanted` are looked at."""
    step = max(1, -(-index.samples // max(1, wanted)))
    sizes = Counter[int]()
    for shard in index.shards[::step]:
        rows = shard.rows()
        sizes.update(rows.range(place)[1] for place in range(len(rows)))
    return sizes


def _doubling_histogram(counted: Counter[int], first: int = 1) -> Histogram:
    return histogram(counted, doubling(max(counted, default=0), first))


def _longer_than_nothing(ends: Sequence[int]) -> int:
    """How many of the texts that end there, one after the other, are not empty."""
    return sum(start < end for start, end in pairwise((0, *ends)))
