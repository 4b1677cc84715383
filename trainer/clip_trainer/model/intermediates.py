"""Which of a tower's intermediate results a caller asked for."""

from __future__ import annotations

from collections.abc import Sequence


def wanted_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Absolute indices of the wanted results.

    Args:
        count: how many there are.
        indices: the last n (int), the given ones (negative counts from the end), or all (None).

    Raises:
        ValueError: an index or n is out of range.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise ValueError(f"the last {indices} intermediates are out of range (1 to {count})")
        return list(range(count - indices, count))
    absolute = [count + index if index < 0 else index for index in indices]
    for index, given in zip(absolute, indices, strict=True):
        if not 0 <= index < count:
            raise ValueError(f"intermediate {given} is out of range (there are {count})")
    return absolute
