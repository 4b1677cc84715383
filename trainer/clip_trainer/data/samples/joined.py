"""Several sets of samples in a row, as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain

import xxhash

from clip_trainer.data.sample_set import Need, ReadHints, SampleReader, SampleSet
from clip_trainer.data.shards.sample import RawSample


class JoinedSamples:
    """The sources of a run: their shards one behind the other; implements `samples.SampleSet`.

    A single source keeps its identity, so naming it in a list does not make another run.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[SampleSet]) -> None:
        assert parts, "there is nothing to join"
        self.parts = tuple(parts)
        self.url = "::".join(part.url for part in parts)
        self.remote = any(part.remote for part in parts)
        alone = len(self.parts) == 1
        self.counts: Sequence[int] = parts[0].counts if alone else [*chain.from_iterable(part.counts for part in parts)]
        self.shards = tuple(len(part.counts) for part in parts)
        """Shards of each part."""
        self.samples = tuple(sum(part.counts) for part in parts)
        """Samples of each part."""
        self._borders = list(accumulate(self.shards))

    @property
    def identity(self) -> str:
        """Digest over the parts' identities in order."""
        if len(self.parts) == 1:
            return self.parts[0].identity
        return xxhash.xxh3_128_hexdigest("\n".join(part.identity for part in self.parts).encode())

    def shard_name(self, shard: int) -> str:
        """The part's own name; with several parts behind what the user calls the part."""
        number, own = self._place(shard)
        name = self.parts[number].shard_name(own)
        return name if len(self.parts) == 1 else f"{self.parts[number].url}: {name}"

    def require(self, *needs: Need) -> None:
        """Check that every part can serve a purpose at all. Raises CorruptError."""
        for part in self.parts:
            part.require(*needs)

    def open_reader(self, hints: ReadHints) -> SampleReader:
        """A reader of all parts; each gets the share of the cache that its samples are of all."""
        if len(self.parts) == 1:
            return self.parts[0].open_reader(hints)
        total = sum(self.samples)
        return _JoinedReader(
            self,
            [
                part.open_reader(
                    hints._replace(
                        cache_bytes=hints.cache_bytes * samples // total,
                        open_windows=-(-hints.open_windows * samples // total),
                    )
                )
                for part, samples in zip(self.parts, self.samples, strict=True)
            ],
        )

    def _place(self, shard: int) -> tuple[int, int]:
        """The part of a shard, and the shard's number in it."""
        number = bisect_right(self._borders, shard)
        return number, shard - self._borders[number] + self.shards[number]


class _JoinedReader:
    """Implements `samples.SampleReader`."""

    def __init__(self, samples: JoinedSamples, readers: Sequence[SampleReader]) -> None:
        self._samples, self._readers = samples, readers

    def read(self, shard: int, index: int) -> RawSample:
        """See `samples.SampleReader`."""
        number, own = self._samples._place(shard)
        return self._readers[number].read(own, index)

    def snapshot(self) -> dict[str, int]:
        """The counts of all parts together."""
        found = [reader.snapshot() for reader in self._readers]
        return {name: sum(counts[name] for counts in found) for name in found[0]}
