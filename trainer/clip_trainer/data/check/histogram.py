"""Numbers counted in bins, with the few figures that sum them up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Histogram:
    """How often numbers fall into bins. Bin `i` holds `starts[i] <= x < starts[i + 1]`; the last one is open."""

    starts: tuple[float, ...]
    """Lower edges of the bins, ascending; empty if there are no numbers."""
    counts: tuple[int, ...]
    """Numbers in each bin."""
    total: int
    """Numbers in all bins."""
    minimum: float
    median: float
    """The lower one of the two in the middle if there is an even count, so that it is one of the numbers."""
    p95: float
    """95 of 100 numbers are this or less."""
    maximum: float
    mean: float


def histogram(counted: Mapping[int, int] | Mapping[float, int], starts: Sequence[float]) -> Histogram:
    """Sort numbers into bins; empty bins at both ends are left out.

    Args:
        counted: how often each number occurs (a `Counter`), so that millions of numbers with few values stay small.
        starts: lower edges, ascending, at most one per bin; numbers below the first count as being in the first.
    """
    values = sorted(counted)
    total = sum(counted.values())
    if total == 0:
        return Histogram((), (), 0, 0, 0, 0, 0, 0)
    counts = [0] * len(starts)
    for value in values:
        counts[max(0, bisect_right(starts, value) - 1)] += counted[value]  # type: ignore[index]
    used = [place for place, count in enumerate(counts) if count]
    kept = slice(used[0], used[-1] + 1)
    ranks = list(accumulate(counted[value] for value in values))  # type: ignore[index]

    def quantile(share: float) -> float:
        return values[min(len(values) - 1, bisect_right(ranks, share * total - 1e-9))]

    return Histogram(
        starts=tuple(starts[kept]),
        counts=tuple(counts[kept]),
        total=total,
        minimum=values[0],
        median=quantile(0.5),
        p95=quantile(0.95),
        maximum=values[-1],
        mean=sum(value * count for value, count in counted.items()) / total,
    )


def doubling(largest: float, first: int = 1) -> tuple[int, ...]:
    """Edges 0, `first`, twice that, and so on, as far as `largest` needs."""
    edges = [0, first]
    while edges[-1] * 2 <= largest:
        edges.append(edges[-1] * 2)
    return tuple(edges)
