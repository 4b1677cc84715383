"""Finds values that occur more than once, in bounded memory."""

from __future__ import annotations

from collections import Counter

_EXAMPLES = 5


class DuplicateFinder:
    """Counts values that occur again.

    Values are known by 64-bit digests. When more than `limit` different ones have been seen, half of the digest space
    is given up, and again as often as needed: equal values have equal digests and so stay or go together, and what is
    left is a fair sample of the values.

    Args:
        limit: different digests kept; each takes about 100 bytes.

    Attributes:
        share: part of all values that is watched, a power of 1/2.
        examples: names of the first few values that had been seen before.
    """

    def __init__(self, limit: int = 1 << 21) -> None:
        self._limit = limit
        self._mask = 0  # only digests without any of these bits are watched
        self._seen: set[int] = set()
        self._again: Counter[int] = Counter()
        self.share = 1.0
        self.examples: list[str] = []

    def add(self, digest: int, name: str) -> None:
        """Take in a value.

        Args:
            digest: 64 bits of a hash of it.
            name: what to call it in an example.
        """
        if digest & self._mask:
            return
        if digest in self._seen:
            self._again[digest] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(name)
            return
        self._seen.add(digest)
        if len(self._seen) > self._limit:
            self._halve()

    @property
    def repeats(self) -> int:
        """Values that an earlier one was equal to; an estimate if `share` is less than 1."""
        return round(self._again.total() / self.share)

    def _halve(self) -> None:
        self._mask = self._mask << 1 | 1
        self.share /= 2
        self._seen = {digest for digest in self._seen if not digest & self._mask}
        self._again = Counter({digest: count for digest, count in self._again.items() if not digest & self._mask})
