"""What verifying and taking apart a sample costs, without reading it: a part of reading that is all CPU."""

from __future__ import annotations

from itertools import cycle

from clip_trainer.data.bench.timing import Timing, time_work
from clip_trainer.data.index.dataset import Dataset
from clip_trainer.data.index.format import sample_check
from clip_trainer.data.sample_set import SampleSet
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.data.shards.sample import parse_sample

_BYTES = 16 << 20  # of one shard, read at once


def time_parsing(samples: SampleSet, *, threads: int, seconds: float) -> Timing | None:
    """Take the first samples of a shard apart, over and over; None if nothing comes from shards.

    Args:
        samples: the data set; of several sources, the first that has shards is looked at.
        threads: how many threads.
        seconds: how long.

    Raises:
        ClipError: the shard cannot be read.
    """
    fragments = _fragments(samples)
    if not fragments:
        return None

    def parse(fragment: bytes) -> int:
        sample_check(fragment)
        parse_sample(fragment, samples.url)
        return 1

    return time_work(parse, cycle(fragments), threads=threads, seconds=seconds)


def _fragments(samples: SampleSet) -> list[bytes]:
    """Samples as they are stored, from the beginning of a shard."""
    parts = samples.parts if isinstance(samples, JoinedSamples) else (samples,)
    dataset = next((part for part in parts if isinstance(part, Dataset)), None)
    if dataset is None:
        return []
    shard = next(shard for shard in dataset.index.shards if shard.samples)
    ranges = [shard.sample_range(index) for index in range(shard.samples)]
    start = ranges[0][0]
    ranges = [ranges[0], *(found for found in ranges[1:] if sum(found) <= start + _BYTES)]
    data = dataset.source.read(shard.url, start, sum(ranges[-1]) - start, etag=shard.etag)
    return [data[offset - start : offset - start + length] for offset, length in ranges]
