"""Reading single samples by index: ranged, verified, and cached where a round trip is expensive."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from clip_trainer.data.index.format import ShardIndex, sample_check
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.shards.sample import RawSample, parse_sample
from clip_trainer.data.storage.source import Source
from clipctl.contract.errors import CorruptError

BLOCK_BYTES = 4 << 20
"""Unit of remote reads, bytes: large enough for throughput, small enough to be fetched in parallel."""

_Key = tuple[int, int]


class BlockCache:
    """Blocks of shards in memory, least recently used out first, within a budget of bytes.

    Two threads that want the same block fetch it once.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._blocks: OrderedDict[_Key, Future[bytes]] = OrderedDict()
        self._held = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: _Key, fetch: Callable[[], bytes]) -> bytes:
        """The block, from memory or by `fetch`. What `fetch` raises comes out, and nothing is kept."""
        with self._lock:
            waiting = self._blocks.get(key)
            if waiting is not None:
                self._blocks.move_to_end(key)
                self.hits += 1
            else:
                self.misses += 1
                mine: Future[bytes] = Future()
                self._blocks[key] = mine
        if waiting is not None:
            return waiting.result()
        return self._fill(key, mine, fetch)

    def drop(self, key: _Key) -> None:
        """Forget a block (its content turned out to be wrong)."""
        with self._lock:
            future = self._blocks.get(key)
            if future is not None and future.done():
                del self._blocks[key]
                self._held -= len(future.result())

    def _fill(self, key: _Key, mine: Future[bytes], fetch: Callable[[], bytes]) -> bytes:
        try:
            data = fetch()
        except BaseException as error:
            with self._lock:
                self._blocks.pop(key, None)
            mine.set_exception(error)
            raise
        with self._lock:
            mine.set_result(data)
            self._held += len(data)
            self._evict()
        return data

    def _evict(self) -> None:
        """Drop the oldest finished blocks until the budget holds; blocks still being fetched stay."""
        for key in [key for key, future in self._blocks.items() if future.done()]:
            if self._held <= self._budget:
                return
            self._held -= len(self._blocks.pop(key).result())


class ShardReader:
    """Reads samples of indexed shards; implements `samples.SampleReader`.

    Local files are read sample by sample (the page cache is the cache). Remote shards are read in blocks kept in
    memory, unless the blocks that are in use at the same time would not fit: then sample by sample too, because a
    cache that is too small fetches every block again and again.

    Args:
        source: where the shards are.
        index: what is in them.
        hints: how the reader will be used.
    """

    def __init__(self, source: Source, index: ShardIndex, hints: ReadHints) -> None:
        self._source, self._index = source, index
        self.cache = BlockCache(hints.cache_bytes)
        mean = index.total_bytes / max(1, index.samples)
        needed = min(hints.open_windows * (hints.window_samples * mean + BLOCK_BYTES), index.total_bytes)
        self.by_block = source.remote and needed <= hints.cache_bytes

    def read(self, shard: int, index: int) -> RawSample:
        """One sample, verified against the index.

        A mismatch is read once more, past all caches, since the error may have happened on the way.

        Raises:
            CorruptError: the stored bytes are not those that were indexed; names shard and sample.
            MissingError, PermissionDeniedError, UnavailableError: from the store.
        """
        info = self._index.shards[shard]
        offset, length = info.sample_range(index)
        data = self._range(shard, offset, length)
        if sample_check(data) != info.check_values[index]:
            self._forget(shard, offset, length)
            # Without an etag, which is what a cache on disk goes by (see `CachedSource`).
            data = self._source.read(info.url, offset, length)
        where = f"{self._source.base}/{info.url}"
        if sample_check(data) != info.check_values[index]:
            raise CorruptError(
                f"Sample {index} of shard {where} differs from the index: the shard is damaged or was replaced.",
                hint="Run `clipctl data verify --deep` on the dataset and restore the shard.",
            )
        return parse_sample(data, where)

    def snapshot(self) -> dict[str, int]:
        """See `samples.SampleReader`; bytes, requests and retries are those of the source."""
        counters = self._source.counters
        return {
            "bytes_read": counters.bytes_read,
            "requests": counters.requests,
            "retries": counters.retries,
            "cache_hits": self.cache.hits,
            "cache_misses": self.cache.misses,
        }

    def _range(self, shard: int, offset: int, length: int) -> bytes:
        info = self._index.shards[shard]
        if not self.by_block:
            return self._source.read(info.url, offset, length, etag=info.etag)
        pieces = []
        for block in range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1):
            base = block * BLOCK_BYTES
            data = self.cache.get((shard, block), lambda base=base: self._block(shard, base))  # type: ignore[misc]
            pieces.append(data[max(0, offset - base) : offset + length - base])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _block(self, shard: int, base: int) -> bytes:
        info = self._index.shards[shard]
        return self._source.read(info.url, base, min(BLOCK_BYTES, info.bytes - base), etag=info.etag)

    def _forget(self, shard: int, offset: int, length: int) -> None:
        for block in range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1):
            self.cache.drop((shard, block))
