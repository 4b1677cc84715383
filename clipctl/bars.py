"""Histograms and counts as horizontal bars of text, for any width of terminal and without colour."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.cells import cell_len, set_cell_size

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
_ELLIPSIS = "…"
_MAX_BAR = 50  # columns; a longer bar tells no more
_MIN_BAR = 4
_MAX_LABEL = 44

Row = tuple[str, int]
"""A label and a count."""


def terminal_width() -> int:
    """Columns to fill: those of the terminal, or 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def can_draw() -> bool:
    """Whether standard output takes block characters."""
    try:
        (_FULL + _EIGHTHS + _ELLIPSIS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def chart(rows: Sequence[Row], width: int, *, total: int | None = None, blocks: bool = True) -> list[str]:
    """Lines of label, bar, count and share; the longest bar is the largest count.

    Args:
        rows: what to draw, in order.
        width: columns of a line, at most (numbers are never cut for it).
        total: what 100 % is; default: the sum of the counts.
        blocks: draw with eighths of block characters, else with `#`.
    """
    if not rows:
        return []
    whole = sum(count for _, count in rows) if total is None else total
    largest = max(count for _, count in rows)
    labels = min(_MAX_LABEL, max(cell_len(label) for label, _ in rows))
    numbers = max(len(f"{count:,}") for _, count in rows)
    room = max(_MIN_BAR, min(_MAX_BAR, width - labels - numbers - 14))
    lines = []
    for label, count in rows:
        drawn = bar(count / max(1, largest), room, blocks=blocks)
        lines.append(f"  {_label(label, labels)}  {drawn:<{room}} {count:>{numbers},} {_percent(count, whole):>7}")
    return lines


def bar(share: float, width: int, *, blocks: bool = True) -> str:
    """A bar of a share of `width` columns; anything above nothing can be seen."""
    if not blocks:
        return "#" * max(share > 0, round(share * width))
    eighths = max(share > 0, round(share * width * 8))
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def bins(histogram: Mapping[str, Any], name: Callable[[float], str] = lambda value: f"{value:g}") -> list[Row]:
    """Rows of a `clip_trainer.data.check.histogram.Histogram` (as JSON): `from-to` and how many.

    Args:
        histogram: has `starts`, `counts` and `maximum`.
        name: how an edge is written.
    """
    starts, counts = histogram["starts"], histogram["counts"]
    labels = [f"{name(low)} - {name(high)}" for low, high in pairwise(starts)]
    labels += [_last_bin(name(start), name(histogram["maximum"])) for start in starts[-1:]]
    return list(zip(labels, counts, strict=True))


def _last_bin(start: str, largest: str) -> str:
    return start if start == largest else f"{start} - {largest}"


def counted(counts: Mapping[str, int], most: int = 8) -> list[Row]:
    """Rows of counts by name, the most frequent first; those beyond `most` rows as one."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    rest = ranked[most - 1 :]
    if len(ranked) <= most:
        return ranked
    return [*ranked[: most - 1], (f"{len(rest)} others", sum(count for _, count in rest))]


def _label(text: str, cells: int) -> str:
    """Right-aligned in columns of the terminal, of which East Asian characters take two."""
    if cell_len(text) > cells:
        text = set_cell_size(text, cells - 1) + _ELLIPSIS
    return " " * (cells - cell_len(text)) + text


def _percent(count: int, whole: int) -> str:
    return f"{100 * count / max(1, whole):.1f} %"
