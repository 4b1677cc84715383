"""Ranks whose state goes wrong on purpose; functions here can be sent to the processes of `run_ranks`."""

from __future__ import annotations

from typing import Any

import torch

from clip_testkit.rankwork import group_of, small_model
from clip_trainer.train.divergence import DivergenceError, ReplicaCheck


def checked_after_a_flip(rank: int, world: int) -> tuple[int, tuple[int, ...], int]:
    """Compare equal weights, then let rank 1 flip one bit: the checksum before, who is named, and how often told."""
    model = small_model()
    told: list[Any] = []
    check = ReplicaCheck(
        lambda: model.state_dict().values(), group_of(rank, world), 5, lambda *event, **fields: told.append(event)
    )
    before = check.own(5)
    assert before is not None
    check.compare(5, before)
    if rank == 1:
        flip_bit(model.visual.proj)
    after = check.own(10)
    assert after is not None
    try:
        check.compare(10, after)
    except DivergenceError as error:
        return before, error.ranks, len(told)
    return before, (), len(told)


def flip_bit(tensor: Any, element: int = 3, bit: int = 0) -> None:
    """Flip one bit of one fp32 element, in place: by default the least that can go wrong."""
    with torch.no_grad():
        tensor.view(-1).view(torch.int32)[element] ^= 1 << bit
