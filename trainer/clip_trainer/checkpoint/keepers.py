"""Which rank keeps a copy of which other's share in its memory: one on another node, the load spread evenly."""

from __future__ import annotations

from collections.abc import Sequence


def keepers(nodes: Sequence[str]) -> list[int | None]:
    """The keeper of each rank's share; None for all if there is but one node, with which everything is lost.

    The share of a node's i-th rank goes to the i-th rank of the next node, counted round if that has fewer. So the loss
    of one node loses no share, nor does the loss of several of which none follows another.

    Args:
        nodes: name of the node of each rank.
    """
    ranks: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks.setdefault(node, []).append(rank)
    order = list(ranks)
    found: list[int | None] = [None] * len(nodes)
    if len(order) == 1:
        return found
    for at, node in enumerate(order):
        following = ranks[order[(at + 1) % len(order)]]
        for place, rank in enumerate(ranks[node]):
            found[rank] = following[place % len(following)]
    return found


def kept_by(rank: int, keepers_: Sequence[int | None]) -> list[int]:
    """The ranks whose shares this rank has: its own, and those it keeps."""
    return [rank, *(other for other, keeper in enumerate(keepers_) if keeper == rank)]
