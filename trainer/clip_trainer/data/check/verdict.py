"""Is a data set fit for training, judged by the samples that were read?"""

from __future__ import annotations

import math
from typing import NamedTuple

_Z = 1.96  # 95 of 100 intervals hold the true share


class Verdict(NamedTuple):
    """The judgement and why."""

    ok: bool
    text: str


def judge(*, read: int, unusable: int, damaged: int, samples: int, max_bad: float) -> Verdict:
    """Judge a data set.

    Training replaces samples that cannot be decoded or have no caption, so some are tolerable; it stops where the
    stored bytes are not those of the index, so no such damage is.

    Args:
        read: samples that were looked at.
        unusable: those of them that cannot be used, damaged ones included.
        damaged: those whose stored bytes differ from the index.
        samples: samples of the data set.
        max_bad: share of unusable samples that is tolerated.
    """
    low, high = interval(unusable, read)
    whole = "" if read == samples else f"; {percent(low)} to {percent(high)} of the whole set"
    what = f"{unusable} of {read} samples cannot be used ({percent(unusable / read)}{whole})"
    if damaged:
        return Verdict(False, f"DAMAGED: {damaged} of {read} samples differ from the index; {what}")
    if unusable > max_bad * read:
        return Verdict(False, f"BAD: {what}, more than the tolerated {percent(max_bad)}")
    if unusable:
        return Verdict(True, f"OK: {what}, training replaces them")
    rest = "" if read == samples else f"; at most {percent(high)} of the whole set cannot"
    return Verdict(True, f"OK: all {read} samples that were read can be used{rest}")


def interval(hits: int, drawn: int) -> tuple[float, float]:
    """Between which shares of the whole the true one lies (95 %), by Wilson's score interval (1927).

    Args:
        hits: how many of those drawn have the property.
        drawn: how many were drawn; at least 1.
    """
    share, weight = hits / drawn, _Z * _Z / drawn
    middle = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * math.sqrt(share * (1 - share) / drawn + weight / drawn / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def percent(share: float) -> str:
    """A share for people: `0.03 %`, `1.2 %`, `34 %`."""
    value = 100 * share
    digits = 0 if value >= 10 or value == 0 else 1 if value >= 1 else 2
    return f"{value:.{digits}f} %"
