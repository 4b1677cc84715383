"""What ranks do in tests of snapshots in memory: keep a trained state, and find it again in another group."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clip_testkit.objectivework import Setup, tiny_batch
from clip_testkit.parallelwork import Arrays, Case, arrays, model_of, one_step, optimizer_of
from clip_testkit.rankwork import group_of
from clip_trainer.checkpoint import optimizer_state
from clip_trainer.checkpoint.memory_keep import SnapshotKeeper
from clip_trainer.checkpoint.memory_restore import newest_whole, read_snapshot
from clip_trainer.checkpoint.memory_shares import MemoryShares, ShareId, SnapshotId
from clip_trainer.checkpoint.restore import Restored
from clip_trainer.parallel.pieces import local, whole
from clip_trainer.parallel.strategy import parallel_of
from clip_trainer.train.guard import Guard
from clip_trainer.train.trainable import Trainable
from clipctl.contract.layout import CheckpointId
from clipctl.contract.sections import GuardSection

CASE = Case(Setup("clip"))
FULL = 13
"""The step at which rank 1's memory is full."""


@dataclass(frozen=True)
class Kept:
    """What a rank has kept, and the whole state at that moment."""

    kept: list[bool]
    shortage: str | None
    has: list[tuple[int, int]]
    """Step and rank of each share in its memory."""
    weights: Arrays
    moments: Arrays


def keep(rank: int, folders: list[str], nodes: list[str], steps: tuple[int, ...], room: int | None) -> Kept:
    """Train a step; keep the state after it under the numbers `steps`, in memory of so much `room`, if not None."""
    group = group_of(rank, len(nodes))
    model, optimizer = one_step(CASE, parallel_of("fsdp", group), group, tiny_batch((2,) * len(nodes), rank))
    shares = SmallMemory(Path(folders[rank]), room)
    keeper = SnapshotKeeper(group, shares, nodes[rank])
    parts, trained = _trainable(model, optimizer).collect()
    kept = [keeper.keep(SnapshotId(1, step, group.world), parts, {"trained": trained, "step": step}) for step in steps]
    has = [(share.snapshot.step, share.rank) for share in shares.published()]
    return Kept(kept, keeper.shortage, has, *_state(model, optimizer))


class SmallMemory(MemoryShares):
    """Memory in which there is as much room as a test says; None: as much as there is."""

    def __init__(self, folder: Path, seeming: int | None) -> None:
        super().__init__(folder)
        self._seeming = seeming

    def stage(self, share: ShareId, size: int) -> torch.Tensor:
        """Fails at the step `FULL` on rank 1, once it has made room for a first share."""
        if share.snapshot.step == FULL and list(self._folder.glob("*.staged")) and self._folder.name == "memory-1":
            raise OSError(errno.ENOSPC, "no room")
        return super().stage(share, size)

    @property
    def room(self) -> int:
        """Bytes."""
        return super().room if self._seeming is None else self._seeming


def find(rank: int, folders: list[str | None]) -> tuple[dict[str, Any], Arrays, Arrays] | None:
    """What a new group, of as many ranks as `folders`, finds in its ranks' memory; None if nothing whole."""
    group = group_of(rank, len(folders))
    folder = folders[rank]
    shares = None if folder is None else MemoryShares(Path(folder))
    found = newest_whole(group, shares, lambda snapshot: snapshot.incarnation == 1)
    if found is None:
        return None
    model = model_of(CASE)
    parallel_of("fsdp", group).adopt(model)
    with torch.no_grad():
        for parameter in model.parameters():
            local(parameter).fill_(7.0)
    optimizer = optimizer_of(CASE, model)
    trainable = _trainable(model, optimizer)
    message, tensors = read_snapshot(group, shares, found, trainable.room)
    trainable.take(Restored(CheckpointId(0, 0), 0, message["trained"], tensors))
    return message, *_state(model, optimizer)


def _state(model: Any, optimizer: torch.optim.Optimizer) -> tuple[Arrays, Arrays]:
    moments = optimizer_state.collect(optimizer, "adamw").tensors
    return arrays(whole(dict(model.state_dict()))), arrays(whole(moments))


def _trainable(model: Any, optimizer: torch.optim.Optimizer) -> Trainable:
    return Trainable(model, optimizer, "adamw", Guard(GuardSection()))
