"""The order in which samples are written: shuffled by a seed, the same on every machine and in every Python."""

from __future__ import annotations

from array import array

from xxhash import xxh3_64_intdigest

_BUCKETS_LOG2 = 10


def shuffled(count: int, seed: int) -> array[int]:
    """The numbers below `count` in the order of their keyed hashes: 8 bytes a number.

    Unlike `random.shuffle` this never changes between versions of Python. The numbers are sorted bucket by bucket, so
    that there are never many Python integers at once (sorting ten million in one go takes a gigabyte).
    """
    buckets = [array("Q") for _ in range(1 << _BUCKETS_LOG2)]
    shift = 64 - _BUCKETS_LOG2
    for number in range(count):
        buckets[_hash(seed, number) >> shift].append(number)
    order = array("Q")
    for bucket in buckets:
        order.extend(sorted(bucket, key=lambda number: _hash(seed, number)))
    return order


def _hash(seed: int, number: int) -> int:
    return xxh3_64_intdigest(b"%d:%d" % (seed, number))
