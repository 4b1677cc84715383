"""Going on from a snapshot in the ranks' memory, however many ranks there are now. See `memory_keep`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch

from clip_trainer.checkpoint.exchange import MESSAGE_BYTES
from clip_trainer.checkpoint.memory_keep import Description
from clip_trainer.checkpoint.memory_shares import MemoryShares, ShareId, SnapshotId
from clip_trainer.checkpoint.objects import dtype_of
from clip_trainer.checkpoint.restore_sharded import Room
from clip_trainer.checkpoint.rows import Shapes, place_rows
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.train.group import Group


@dataclass(frozen=True)
class Found:
    """A whole snapshot.

    Attributes:
        snapshot: its name.
        holders: by rank of the group that made it, the rank of the present group that has its share.
    """

    snapshot: SnapshotId
    holders: tuple[int, ...]


def newest_whole(group: Group, shares: MemoryShares | None, wanted: Callable[[SnapshotId], bool]) -> Found | None:
    """The newest snapshot of which every share is in some rank's memory. Collective.

    Args:
        group: the ranks.
        shares: this rank's memory, if it has any.
        wanted: asked on rank 0 whether a snapshot can be used.
    """
    mine = [] if shares is None else [[*astuple(share.snapshot), share.rank] for share in shares.published()]
    holders: dict[SnapshotId, dict[int, int]] = {}
    for rank, held in enumerate(group.gather_json(mine)):
        for incarnation, step, world, of in held:
            holders.setdefault(SnapshotId(incarnation, step, world), {}).setdefault(of, rank)
    whole = sorted(snapshot for snapshot, by_rank in holders.items() if len(by_rank) == snapshot.world)
    if not whole or not group.on_first(lambda: wanted(whole[-1])):
        return None
    by_rank = holders[whole[-1]]
    return Found(whole[-1], tuple(by_rank[of] for of in range(whole[-1].world)))


def read_snapshot(
    group: Group, shares: MemoryShares | None, found: Found, room: Room
) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """Every rank's part of the state: what is not a tensor, and the tensors that `room` made, filled. Collective.

    Args:
        group: the ranks.
        shares: this rank's memory.
        found: the snapshot.
        room: makes the tensors, given the shapes of the whole ones, on every rank.
    """
    state: dict[str, Any] = {}
    layouts: list[list[Description]] = []
    for of, holder in enumerate(found.holders):
        held: dict[str, Any] = {}
        if holder == group.rank:
            assert shares is not None
            held = shares.describe(ShareId(found.snapshot, of))
        if of == 0:  # it is the same in all of them
            state = group.broadcast_json(held.get("state"), holder)
        layouts.append(group.broadcast_json(held.get("objects"), holder))
    tensors = room(_shapes([entry for layout in layouts for entry in layout]))
    for of, (holder, layout) in enumerate(zip(found.holders, layouts, strict=True)):
        data = None
        if holder == group.rank and shares is not None:
            data = shares.bytes_of(ShareId(found.snapshot, of))
        _spread(group, holder, data, layout, tensors)
    return state, tensors


def _shapes(entries: list[Description]) -> dict[str, Shapes]:
    shapes: dict[str, Shapes] = {}
    for entry in entries:
        shapes.setdefault(entry["part"], {})[entry["name"]] = (tuple(entry["global_shape"]), dtype_of(entry["dtype"]))
    return shapes


@torch.no_grad()
def _spread(
    group: Group,
    holder: int,
    data: torch.Tensor | None,
    entries: list[Description],
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Give one share, [bytes] on its holder, to all ranks; each takes the rows it has."""
    for bunch in _bunches(entries):
        start, stop = bunch[0]["start"], bunch[-1]["stop"]
        if data is None:
            flat = torch.empty(stop - start, dtype=torch.uint8, device=group.device)
        else:
            flat = data[start:stop].to(group.device)
        group.broadcast_tensors([flat], holder)
        for entry in bunch:
            target = tensors.get(entry["part"], {}).get(entry["name"])
            if target is not None:
                raw = flat[entry["start"] - start : entry["stop"] - start].clone()  # aligned for any dtype
                piece = raw.view(dtype_of(entry["dtype"])).view(entry["shape"])
                place_rows(target, piece, entry["offsets"], group.rank, group.world)


def _bunches(entries: list[Description]) -> Iterator[list[Description]]:
    """Neighbours in a share that travel in one message."""
    bunch: list[Description] = []
    for entry in entries:
        if bunch and entry["stop"] - bunch[0]["start"] > MESSAGE_BYTES:
            yield bunch
            bunch = []
        bunch.append(entry)
    if bunch:
        yield bunch
