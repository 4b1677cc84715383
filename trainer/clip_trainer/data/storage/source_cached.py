"""A source whose objects are read once from far away, and from then on from a local disk."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from clip_trainer.data.storage.block_store import BlockKey, BlockStore
from clip_trainer.data.storage.http_errors import changed, too_short
from clip_trainer.data.storage.source import ObjectInfo, Source, SourceCounters

_STRIPES = 64


class CachedSource:
    """Another source with a disk cache in front of it; implements `source.Source`.

    Only reads that name a version (`etag`) are cached: without one nobody could tell when a block is out of date. A
    read without one goes to the source and takes the blocks it touches out of the cache: so does a reader that was
    given wrong bytes, which may have been damaged on the way here. Two threads that want the same block fetch it once.

    Args:
        source: where the objects are.
        store: where blocks are kept.
        block_bytes: how much is fetched and kept at a time.
    """

    def __init__(self, source: Source, store: BlockStore, *, block_bytes: int = 4 << 20) -> None:
        self.base = source.base
        self.remote = source.remote
        self.counters: SourceCounters = source.counters
        self._source, self._store, self._block_bytes = source, store, block_bytes
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        self._sizes: dict[tuple[str, str], int] = {}
        self._etags: dict[str, str] = {}  # the versions that were read last

    def info(self, name: str) -> ObjectInfo:
        """From the source."""
        return self._source.info(name)

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """From the source."""
        return self._source.info_many(names)

    def list_shards(self) -> tuple[str, ...]:
        """From the source."""
        return self._source.list_shards()

    def load(self, name: str) -> bytes:
        """From the source."""
        return self._source.load(name)

    def save(self, name: str, data: bytes) -> None:
        """To the source."""
        self._source.save(name, data)

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """A range, put together from blocks."""
        numbers = range(offset // self._block_bytes, (offset + length - 1) // self._block_bytes + 1)
        if etag is None or length == 0:
            self._distrust(name, numbers)
            return self._source.read(name, offset, length, etag=etag)
        self._etags[name] = etag
        pieces = []
        for number in numbers:
            start = number * self._block_bytes
            part = (max(0, offset - start), min(self._block_bytes, offset + length - start))
            pieces.append(self._part(BlockKey(self.base, name, etag, number), *part))
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) < length:
            raise too_short(f"{self.base}/{name}")
        return data

    def _distrust(self, name: str, numbers: Iterable[int]) -> None:
        if etag := self._etags.get(name):
            for number in numbers:
                self._store.drop(BlockKey(self.base, name, etag, number))

    def _part(self, key: BlockKey, start: int, stop: int) -> bytes:
        """A part of a block, which is fetched as a whole if it is not there."""
        part = self._store.get(key, start, stop)
        if part is None:
            # Only those who have to fetch wait for each other, and then look again: it may be there by now.
            with self._stripes[hash(key) % _STRIPES]:
                part = self._store.get(key, start, stop)
                if part is None:
                    self.counters.add(cache_misses=1)
                    block = self._fetched(key)
                    self._store.put(key, block)
                    return block[start:stop]
        self.counters.add(cache_hits=1)
        return part

    def _fetched(self, key: BlockKey) -> bytes:
        start = key.number * self._block_bytes
        length = min(self._block_bytes, self._size(key.name, key.etag) - start)
        if length <= 0:
            raise too_short(f"{self.base}/{key.name}")
        return self._source.read(key.name, start, length, etag=key.etag)

    def _size(self, name: str, etag: str) -> int:
        """Bytes of the object, asked for once: the last block ends with it."""
        size = self._sizes.get((name, etag))
        if size is None:
            info = self._source.info(name)
            if info.etag != etag:
                raise changed(f"{self.base}/{name}")
            size = self._sizes[name, etag] = info.bytes
        return size
