"""The rows of one shard: where each of its samples lies, and the check of its bytes.

A block of rows is three columns of little-endian uint32, one number a sample: *start* and *length* in tar blocks of
512 bytes from the start of the shard (headers and padding included), and the *check*, the low 32 bits of the xxh3-64
of those bytes. What is left of the block is canonical JSON about the shard that only indexing needs (`ShardDetails`).

Blocks are read one by one, when a shard is read, and kept within a budget: the rows of a hundred million samples are
1.2 GB, of which a run has only those of its open shards in use.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import xxhash

from clip_trainer.data.shards.tar_header import BLOCK
from clipctl.contract.errors import CorruptError

ROW_BYTES = 12
"""Bytes of a sample's row."""

_KEPT_BYTES = 64 << 20  # rows of five million samples
_UINT32 = "I"
assert array(_UINT32).itemsize == 4, "the index needs a C unsigned int of 32 bits"


@dataclass(frozen=True)
class ShardDetails:
    """What was seen in a shard, for the totals of the index."""

    suffixes: dict[str, int] = field(default_factory=dict)
    """Samples that have a member with this suffix; samples that were left out count too."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Samples that are not in the index, by reason."""


class SampleRows:
    """The rows of a shard, decoded."""

    def __init__(self, samples: int, values: array[int]) -> None:
        self._samples, self._values = samples, values

    def range(self, index: int) -> tuple[int, int]:
        """Offset and length in bytes of one sample within its shard."""
        return self._values[index] * BLOCK, self._values[self._samples + index] * BLOCK

    @property
    def checks(self) -> Sequence[int]:
        """The check of every sample."""
        return memoryview(self._values)[2 * self._samples :]

    def __len__(self) -> int:
        return self._samples


def pack_rows(starts: Sequence[int], lengths: Sequence[int], checks: Sequence[int], details: ShardDetails) -> bytes:
    """The block of a shard, from its samples' starts and lengths (in tar blocks) and checks."""
    values = array(_UINT32, (*starts, *lengths, *checks))
    if sys.byteorder == "big":
        values.byteswap()
    text = json.dumps([details.suffixes, details.left_out], sort_keys=True, separators=(",", ":"))
    return values.tobytes() + text.encode()


def unpack_rows(block: bytes, samples: int) -> SampleRows:
    """The rows of a block that has been verified."""
    values = array(_UINT32)
    values.frombytes(memoryview(block)[: samples * ROW_BYTES])
    if sys.byteorder == "big":
        values.byteswap()
    return SampleRows(samples, values)


def unpack_details(block: bytes, samples: int) -> ShardDetails:
    """The details of a block that has been verified."""
    suffixes, left_out = json.loads(block[samples * ROW_BYTES :])
    return ShardDetails(suffixes, left_out)


def verified_block(block: bytes, check: int, where: str) -> bytes:
    """The block itself. Raises CorruptError if it is not the one the shard's entry speaks of."""
    if xxhash.xxh3_64_intdigest(block) != check:
        raise CorruptError(
            f"{where} are damaged: they do not match their digest.",
            hint="Build the index again with `clipctl data index --force`.",
        )
    return block


class RowCache:
    """Decoded rows of the shards used last; safe to share between threads.

    Two threads that miss the same shard at once both fetch it: that is rare, and cheaper than waiting in a queue.
    """

    def __init__(self, budget: int = _KEPT_BYTES) -> None:
        self._budget = budget
        self._lock = Lock()
        self._kept: OrderedDict[int, SampleRows] = OrderedDict()
        self._held = 0

    def get(self, shard: int, fetch: Callable[[], SampleRows]) -> SampleRows:
        """The rows of a shard, from memory or by `fetch`."""
        with self._lock:
            rows = self._kept.get(shard)
            if rows is not None:
                self._kept.move_to_end(shard)
                return rows
        rows = fetch()
        with self._lock:
            if shard not in self._kept:
                self._kept[shard] = rows
                self._held += len(rows) * ROW_BYTES
            while self._held > self._budget and len(self._kept) > 1:
                self._held -= len(self._kept.popitem(last=False)[1]) * ROW_BYTES
        return rows

    def __len__(self) -> int:
        return len(self._kept)
