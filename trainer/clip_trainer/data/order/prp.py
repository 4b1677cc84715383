"""Keyed pseudo-random permutations of `range(n)`, evaluated one element at a time.

A shuffled list needs the list; a keyed permutation needs only its key, so the place of any sample in any epoch is
computed, not stored. The permutation is a balanced Feistel network (Luby and Rackoff, 1988) over the smallest
domain `2**(2*half) >= n`, restricted to `range(n)` by cycle walking (Black and Rogaway, 2002): an image outside
`range(n)` is encrypted again until it falls inside, which keeps the map a bijection of `range(n)`. The domain is
less than `4*n`, so four evaluations are enough on average.

Everything is vectorised over numpy `uint64` arrays, each element with its own size and key. Nothing here depends on
the platform, the process or numpy's own generators, so the order of a run is the same on every machine for ever.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_ROUNDS = 8
_CHUNK = 1 << 14  # elements permuted at a time: their intermediate arrays stay in a core's cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def mix64(values: U64) -> U64:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit words with full avalanche."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def derive(key: U64, word: U64) -> U64:
    """A new key from a key and a word, element by element; different words give independent keys."""
    return mix64(key ^ mix64(word))


def derive_key(*words: int) -> int:
    """One 64-bit key from a sequence of integers (each taken modulo 2**64), order mattering.

    The same as folding `derive` over the words; plain integers are ten times faster for a single key.
    """
    key = 0
    for word in words:
        key = _mix64_int(key ^ _mix64_int(word & _MASK))
    return key


def _mix64_int(value: int) -> int:
    mixed = (value + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def permute(values: U64, sizes: U64, keys: U64) -> U64:
    """The image of each value under the permutation of `range(size)` chosen by its key.

    Args:
        values: elements to map, each `< size`.
        sizes: size of each element's domain, `1 <= size < 2**52`.
        keys: key of each element's permutation.

    Returns:
        The images, each `< size`; for a fixed size and key the map is a bijection of `range(size)`.
    """
    assert bool(np.all(values < sizes)), "a value lies outside the domain it is permuted in"
    images = np.empty_like(values)
    for first in range(0, len(values), _CHUNK):
        part = slice(first, first + _CHUNK)
        images[part] = _permute_chunk(values[part], sizes[part], keys[part])
    return images


def _permute_chunk(values: U64, sizes: U64, keys: U64) -> U64:
    half = _half_bits(sizes)
    images = _feistel(values, half, keys)
    outside = np.flatnonzero(images >= sizes)
    while outside.size:
        images[outside] = _feistel(images[outside], half[outside], keys[outside])
        outside = outside[images[outside] >= sizes[outside]]
    return images


def _half_bits(sizes: U64) -> U64:
    """Half the (even) number of bits that hold every element of each domain, at least one."""
    # frexp's exponent is the bit length, exactly, for integers below 2**53.
    bits = np.frexp((sizes - np.uint64(1)).astype(np.float64))[1]
    return np.asarray(np.maximum((bits + 1) // 2, 1), np.uint64)


def _feistel(values: U64, half: U64, keys: U64) -> U64:
    low_mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & low_mask
    for turn in range(_ROUNDS):
        subkeys = keys + np.uint64((turn * 0xD1342543DE82EF95) & _MASK)
        left, right = right, left ^ (mix64(mix64(right) ^ subkeys) & low_mask)
    return (left << half) | right
