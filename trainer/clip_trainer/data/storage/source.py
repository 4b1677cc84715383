"""Where the bytes of a dataset come from: one interface over local directories and object stores.

A source is rooted at a base (a directory path or URL); objects are named relative to it. Every method raises the
typed errors of `clipctl.contract.errors` and nothing else. Sources are safe to share between threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from clip_trainer.data.storage.location import Location
from clip_trainer.data.storage.retry import RetryPolicy
from clipctl.contract.errors import CorruptError

_STREAM_CHUNK = 8 << 20
_READ_AHEAD = 4  # chunks on their way while one is used


class ObjectInfo(NamedTuple):
    """What a store says about an object without reading it."""

    name: str
    bytes: int
    etag: str | None  # None where the store has none (local files)
    modified: int = 0  # time of the last change of a local file, nanoseconds; 0 where unknown


class SourceCounters:
    """Requests and bytes of a source, and hits of its disk cache if it has one, counted across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes_read = 0
        self.retries = 0
        self.cache_hits = 0
        self.cache_misses = 0

    def add(
        self,
        *,
        requests: int = 0,
        bytes_read: int = 0,
        retries: int = 0,
        cache_hits: int = 0,
        cache_misses: int = 0,
    ) -> None:
        """Add to the counts."""
        with self._lock:
            self.requests += requests
            self.bytes_read += bytes_read
            self.retries += retries
            self.cache_hits += cache_hits
            self.cache_misses += cache_misses


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

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """Exactly `length` bytes from `offset`; with an `etag`, of that version of the object.

        Raises:
            CorruptError: the object is shorter, or is no longer that version.
        """
        ...

    def load(self, name: str) -> bytes:
        """A whole (small) object."""
        ...

    def save(self, name: str, data: bytes) -> None:
        """Create or replace a whole object; readers see the old or the new one, never a part."""
        ...


def open_source(location: Location, *, retry: RetryPolicy | None = None) -> Source:
    """The source a location is rooted at; `retry` overrides how often failed requests are repeated."""
    if location.scheme == "":
        from clip_trainer.data.storage.source_local import LocalSource

        return LocalSource(location.base)
    if location.scheme == "s3":
        from clip_trainer.data.storage.source_s3 import S3Source

        return S3Source(location.base, retry=retry)
    if location.scheme in ("http", "https"):
        from clip_trainer.data.storage.source_http import HttpSource

        return HttpSource(location.base, retry=retry)
    if location.scheme == "pipe":
        from clip_trainer.data.storage.source_pipe import PipeSource

        return PipeSource(location.base)
    from clip_trainer.data.storage.source_fsspec import FsspecSource

    return FsspecSource(location.base, retry=retry)


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

    Ranges of a remote object are fetched ahead in parallel and handed out in order.

    Args:
        source: where the object is.
        info: the object, its size at the time of asking. With an etag, no other version is read.
        on_chunk: called with every chunk in order, once (for hashing and progress).
    """

    def __init__(self, source: Source, info: ObjectInfo, on_chunk: Callable[[bytes], None]) -> None:
        self._source, self._info, self._on_chunk = source, info, on_chunk
        self._asked = 0
        self._ahead: deque[Future[bytes]] = deque()
        # Its threads end with it: a reader that is given up needs no closing.
        self._pool = ThreadPoolExecutor(_READ_AHEAD) if source.remote and info.bytes > _STREAM_CHUNK else None
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
        chunk = self._next_chunk() if self._pool is None else self._next_ahead(self._pool)
        if not chunk:
            return False
        self._chunk, self._used = chunk, 0
        self._on_chunk(chunk)
        return True

    def _next_chunk(self) -> bytes:
        offset, length = self._next_range()
        return self._source.read(self._info.name, offset, length, etag=self._info.etag) if length else b""

    def _next_ahead(self, pool: ThreadPoolExecutor) -> bytes:
        while len(self._ahead) < _READ_AHEAD:
            offset, length = self._next_range()
            if not length:
                break
            read = pool.submit(self._source.read, self._info.name, offset, length, etag=self._info.etag)
            self._ahead.append(read)
        return self._ahead.popleft().result() if self._ahead else b""

    def _next_range(self) -> tuple[int, int]:
        offset = self._asked
        length = min(_STREAM_CHUNK, self._info.bytes - offset)
        self._asked += length
        return offset, length
