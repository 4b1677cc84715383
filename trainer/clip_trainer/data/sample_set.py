"""What the order, the loaders and the evaluation need to know of a data set, wherever its samples come from.

Shards with an index are one kind (`index.Dataset`); the rows of a table, several data sets in a row, or made-up
samples are others. All are numbered the same way: shards, and samples within a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from clip_trainer.data.shards.sample import RawSample

Need = Literal["image", "caption", "class"]
"""What samples are wanted for."""


class ReadHints(NamedTuple):
    """How a reader will be used; it decides what is kept in memory."""

    cache_bytes: int = 512 << 20
    """Memory for blocks of remote shards."""
    open_windows: int = 1
    """Places of the data set that are read alternately (the lanes of a rank)."""
    window_samples: int = 1
    """Neighbouring samples that are used in random order at each place."""


class SampleReader(Protocol):
    """Reads single samples; safe to share between threads."""

    def read(self, shard: int, index: int) -> RawSample:
        """One sample. Raises CorruptError, MissingError, PermissionDeniedError or UnavailableError."""
        ...

    def snapshot(self) -> dict[str, int]:
        """Counts since it was opened: bytes_read, requests, retries, cache_hits, cache_misses."""
        ...


class SampleSet(Protocol):
    """Samples in numbered shards."""

    @property
    def url(self) -> str:
        """What the user calls it."""
        ...

    @property
    def remote(self) -> bool:
        """Reading waits for a network."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each shard."""
        ...

    @property
    def identity(self) -> str:
        """Digest of the content: equal for copies, wherever they are."""
        ...

    def shard_name(self, shard: int) -> str:
        """What messages and the ledger call a shard."""
        ...

    def require(self, *needs: Need) -> None:
        """Check that every shard can serve a purpose at all. Raises CorruptError."""
        ...

    def open_reader(self, hints: ReadHints) -> SampleReader:
        """A reader of the samples."""
        ...
