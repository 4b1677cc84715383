"""Finding slow ranks: every rank waits for the slowest, so one bad disk or throttled core slows the whole run.

What counts is a rank's own time for a step: waiting for its batch, computing, updating, but not waiting for peers,
which is the same for all of them. On a GPU, where collectives return before they are done, a rank's wait for a slow
peer looks like its own computing; what shows there is slow data.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median_low

from clip_trainer.train.divergence import Tell
from clip_trainer.train.group import Group

WINDOW_STEPS = 50
_WORTH_SECONDS = 0.02  # a step of a tiny model jitters by more than any ratio


@dataclass(frozen=True)
class Comparison:
    """How the ranks' own times for a step compare.

    Attributes:
        p95: the 95th percentile of the last steps, seconds, by rank.
        ratios: p95 divided by that of the median rank, by rank.
        slow: the ranks that are too slow.
    """

    p95: tuple[float, ...]
    ratios: tuple[float, ...]
    slow: tuple[int, ...]


def percentile_95(seconds: Sequence[float]) -> float:
    """The 95th percentile, by nearest rank."""
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]


def compare(p95: Sequence[float], ratio: float) -> Comparison:
    """Which ranks are more than `ratio` times as slow as the median one; of two ranks, as the faster one."""
    middle = median_low(p95)
    slow = tuple(rank for rank, own in enumerate(p95) if own > ratio * middle and own - middle > _WORTH_SECONDS)
    return Comparison(tuple(p95), tuple(own / middle if middle > 0 else 1.0 for own in p95), slow)


class StragglerWatch:
    """Compares the ranks every `WINDOW_STEPS` steps, and tells when other ranks are slow than before.

    Args:
        group: the ranks.
        ratio: `health.straggler_ratio`.
        tell: says who is slow, in the ledger.
        measure: called with this rank's own ratio after each comparison.
    """

    def __init__(self, group: Group, ratio: float, tell: Tell, measure: Callable[[float], None]) -> None:
        self._group = group
        self._ratio = ratio
        self._tell = tell
        self._measure = measure
        self._seconds: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._slow: tuple[int, ...] = ()

    def regrouped(self) -> None:
        """Begin again: ranks have other numbers now, and the first steps of a new group are slow on all of them."""
        self._seconds.clear()
        self._slow = ()

    def after_step(self, step: int, own_seconds: float) -> Comparison | None:
        """Take in a step, and compare if that is due. Collective when due.

        Args:
            step: steps done, the same on every rank.
            own_seconds: what the step took on this rank, without waiting for peers.
        """
        self._seconds.append(own_seconds)
        if step % WINDOW_STEPS or self._group.world == 1:
            return None
        found = compare(self._group.gather_json(percentile_95(self._seconds)), self._ratio)
        self._measure(found.ratios[self._group.rank])
        if found.slow != self._slow:
            self._slow = found.slow
            self._tell("straggler", _words(found), step=step, ranks=list(found.slow), p95=_rounded(found.p95))
        return found


def _words(found: Comparison) -> str:
    if not found.slow:
        return "no rank is slow any more"
    named = (f"rank {r} takes {found.p95[r]:.3g} s, {found.ratios[r]:.2g} times the median rank" for r in found.slow)
    return f"slow steps: {', '.join(named)}; all ranks wait for it"


def _rounded(seconds: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in seconds]
