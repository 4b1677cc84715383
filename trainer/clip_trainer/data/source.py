"""Where the bytes of a dataset come from: one interface over local directories and object stores.

A source is rooted at a base (a directory path or URL); objects are named relative to it. Every method raises the
typed errors of `clipctl.contract.errors` and nothing else. Sources are safe to share between threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from clip_trainer.data.location import Location
from clipctl.contract.errors import CorruptError

_STREAM_CHUNK = 8 << 20


class ObjectInfo(NamedTuple):
    """What a store says about an object without reading it."""

    name: str
    bytes: int
    etag: str | None  # None where the store has none (local files)


class SourceCounters:
    """Requests and bytes of a source, counted across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes_read = 0
        self.retries = 0

    def add(self, *, requests: int = 0, bytes_read: int = 0, retries: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.requests += requests
            self.bytes_read += bytes_read
            self.retries += retries


class Source(Protocol):
    """Objects below a base."""

    base: str
    remote: bool  # reading costs a round trip, so it pays to read ahead and to keep blocks
    counters: SourceCounters

    def info(self, name: str) -> ObjectInfo:
        """Size and etag of an object. Raises MissingError if there is none."""
        ...

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """`info` of those objects that exist."""
        ...

    def list_shards(self) -> tuple[str, ...]:
        """Names of the `.tar` objects directly below the base, sorted."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises CorruptError if the object is shorter."""
        ...

    def load(self, name: str) -> bytes:
        """A whole (small) object."""
        ...

    def save(self, name: str, data: bytes) -> None:
        """Create or replace a whole object; readers see the old or the new one, never a part."""
        ...


def open_source(location: Location) -> Source:
    """The source a location is rooted at."""
    if location.scheme == "":
        from clip_trainer.data.source_local import LocalSource

        return LocalSource(location.base)
    from clip_trainer.data.source_remote import RemoteSource

    return RemoteSource(location.base)


def checked_name(name: str) -> str:
    """The name itself, if it stays below the base.

    Raises:
        CorruptError: an index or listing holds a name that leads elsewhere.
    """
    if not name or name.startswith("/") or "\0" in name or "\\" in name or ".." in name.split("/") or ":" in name:
        raise CorruptError(f"The shard name {name!r} does not stay below the dataset's directory.")
    return name


class SequentialReader:
    """Reads an object from start to end in large ranges; `read(n)` as of a file.

    Args:
        source: where the object is.
        info: the object, its size at the time of asking.
        on_chunk: called with every chunk in order, once (for hashing and progress).
    """

    def __init__(self, source: Source, info: ObjectInfo, on_chunk: Callable[[bytes], None]) -> None:
        self._source, self._info, self._on_chunk = source, info, on_chunk
        self._fetched = 0
        self._chunk = b""
        self._used = 0

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end."""
        pieces: list[bytes] = []
        while count:
            if self._used == len(self._chunk) and not self._fetch():
                break
            piece = self._chunk[self._used : self._used + count]
            self._used += len(piece)
            count -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fetch(self) -> bool:
        length = min(_STREAM_CHUNK, self._info.bytes - self._fetched)
        if length == 0:
            return False
        self._chunk = self._source.read(self._info.name, self._fetched, length)
        self._used = 0
        self._fetched += length
        self._on_chunk(self._chunk)
        return True
