"""Sets of samples that a test makes up in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clip_trainer.data.sample_set import Need, ReadHints
from clip_trainer.data.shards.sample import RawSample

Make = Callable[[int, int], RawSample]


class MadeUpSamples:
    """Implements `clip_trainer.data.sample_set.SampleSet`.

    Args:
        counts: samples of each shard.
        make: makes the sample of a shard and an index; raises what reading it shall raise.

    Attributes:
        hints: those of every reader that was opened.
    """

    url = "made-up"
    identity = "made-up"
    remote = False

    def __init__(self, counts: Sequence[int], make: Make) -> None:
        self.counts = counts
        self.hints: list[ReadHints] = []
        self._make = make

    def shard_name(self, shard: int) -> str:
        """What messages call a shard."""
        return f"shard {shard}"

    def require(self, *needs: Need) -> None:
        """Whatever is needed is there."""

    def open_reader(self, hints: ReadHints) -> MadeUpReader:
        """A reader."""
        self.hints.append(hints)
        return MadeUpReader(self._make)


class MadeUpReader:
    """Implements `clip_trainer.data.sample_set.SampleReader`."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._bytes = 0

    def read(self, shard: int, index: int) -> RawSample:
        """Make the sample."""
        sample = self._make(shard, index)
        self._bytes += sum(map(len, sample.members.values()))
        return sample

    def snapshot(self) -> dict[str, int]:
        """Bytes of what was made; nothing else happens."""
        return {"bytes_read": self._bytes, "requests": 0, "retries": 0, "cache_hits": 0, "cache_misses": 0}
