"""The shortest list of faults that still makes a run fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shrink(items: Sequence[Item], fails: Callable[[list[Item]], bool], tries: int = 100) -> list[Item]:
    """Leave out what is not needed for the failure: ddmin (Zeller and Hildebrandt, IEEE TSE 2002).

    The result fails, unless nothing was tried at all; leaving out any one of it does not, if there were tries enough.

    Args:
        items: a list that fails.
        fails: whether a part of it, in the same order, fails too.
        tries: most calls of `fails`.
    """
    kept, parts = list(items), 2
    left = tries
    while len(kept) >= 2:
        chunks = _split(kept, parts)
        smaller = None
        for candidate in [*chunks, *(_without(chunks, index) for index in range(len(chunks)) if parts > 2)]:
            if left == 0:
                return kept
            left -= 1
            if fails(candidate):
                smaller = candidate
                break
        if smaller is not None:
            parts = 2 if len(smaller) * parts <= len(kept) else max(parts - 1, 2)
            kept = smaller
        elif parts >= len(kept):
            return kept
        else:
            parts = min(parts * 2, len(kept))
    return kept


def _split(items: list[Item], parts: int) -> list[list[Item]]:
    bounds = [round(index * len(items) / parts) for index in range(parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def _without(chunks: list[list[Item]], left_out: int) -> list[Item]:
    return [item for index, chunk in enumerate(chunks) if index != left_out for item in chunk]
