"""The merge table of CLIP's vocabulary, and byte-pair encoding of one word with it (arXiv 1508.07909)."""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path

WORD_END = "</w>"
"""Suffix of a symbol that ends a word."""

CLIP_MERGES = 49_152 - 256 - 2
"""Merges in CLIP's vocabulary: 49,152 symbols less the bytes and the two special tokens."""

Pair = str
"""Two symbols with a space between them, as they stand in a table.

No tuple: 49,000 new objects would set the garbage collector going, which takes a tenth of a second beside torch.
"""


@lru_cache(maxsize=1)
def byte_symbols() -> tuple[str, ...]:
    """The printable character that stands for each byte value in the vocabulary.

    Printable Latin-1 characters stand for themselves, the other bytes for code points from 256 on, so that no symbol
    is white space or a control character.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    shifted = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(shifted)) for byte in range(256))


@lru_cache(maxsize=4)
def read_merges(path: str | Path | None = None) -> tuple[Pair, ...]:
    """The pairs of a merge table, in order of rank.

    Args:
        path: a table in OpenAI's format (one line of header, perhaps compressed with gzip), of which CLIP uses the
            first 48,894 pairs; None for CLIP's own in `bpe_merges.txt`, whose header ends at the first empty line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a pair.
    """
    if path is None:
        text = resources.files(__package__).joinpath("bpe_merges.txt").read_text(encoding="utf-8")
        lines = text.partition("\n\n")[2].splitlines()
    else:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
        lines = text.rstrip("\n").split("\n")[1 : CLIP_MERGES + 1]
    if any(line.count(" ") != 1 for line in lines):
        raise ValueError(f"{path} is no merge table: a line has not exactly two symbols")
    return tuple(lines)


def vocabulary(merges: tuple[Pair, ...]) -> list[str]:
    """Symbols by token id: bytes, bytes that end a word, merged symbols (in the order CLIP numbers them)."""
    # Printable bytes come first in CLIP's numbering, then the shifted ones.
    singles = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) >= 256, ord(symbol)))
    return [*singles, *(symbol + WORD_END for symbol in singles), *(pair.replace(" ", "") for pair in merges)]


def merge_word(symbols: list[str], ranks: Mapping[Pair, int]) -> list[str]:
    """Merge neighbours by rank, lowest first, until no ranked pair is left.

    All occurrences of one pair are merged from left to right before the next pair is looked for. A heap of candidate
    positions makes it O(n log n): a megabyte without a space cannot stall a loader thread.

    Args:
        symbols: the word, one symbol a byte; the last one carries `WORD_END`.
        ranks: rank of each pair.
    """
    size = len(symbols)
    parts: list[str | None] = list(symbols)
    following, preceding = list(range(1, size + 1)), list(range(-1, size - 1))

    def rank_at(left: int) -> int | None:
        """Rank of the pair that starts at `left`, None if there is none (any more)."""
        if left < 0 or following[left] >= size:
            return None
        first, second = parts[left], parts[following[left]]
        return None if first is None or second is None else ranks.get(f"{first} {second}")

    heap = [(rank, left) for left in range(size - 1) if (rank := rank_at(left)) is not None]
    heapq.heapify(heap)
    while heap:
        rank = heap[0][0]
        merged: list[int] = []
        while heap and heap[0][0] == rank:
            _, left = heapq.heappop(heap)
            if rank_at(left) != rank:
                continue  # an earlier merge took one of the two
            right = following[left]
            parts[left] = f"{parts[left]}{parts[right]}"
            parts[right] = None
            following[left] = following[right]
            if following[left] < size:
                preceding[following[left]] = left
            merged.append(left)
        for left in merged:
            for start in (preceding[left], left):
                new_rank = rank_at(start)
                if new_rank is not None:
                    heapq.heappush(heap, (new_rank, start))
    return [part for part in parts if part is not None]
