"""Keeping a sharded state in the memory of two nodes each: every rank its own share, and a copy on another node.

What a checkpoint in storage is to the loss of everything, a snapshot in memory is to the loss of a process or a node:
it costs a copy instead of an upload, so it can be made often. After GEMINI (Wang et al., SOSP 2023).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clip_trainer.checkpoint.copying import ShareCopy
from clip_trainer.checkpoint.keepers import keepers, kept_by
from clip_trainer.checkpoint.memory_shares import MemoryShares, ShareId, SnapshotId
from clip_trainer.checkpoint.objects import PlannedObject, plan_shares, total_bytes
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.train.group import Group
from clipctl.contract.failpoints import failpoint

AT_A_TIME = 2
"""Snapshots that exist at once: the newest whole one, and the one that is being made."""
_MARGIN = 16 << 20  # bytes, for descriptions and for what else lies there
Description = dict[str, Any]


class SnapshotKeeper:
    """Makes the snapshots of one generation.

    Args:
        group: the ranks; they stay the same.
        shares: this rank's memory.
        node: name of this rank's node.
    """

    def __init__(self, group: Group, shares: MemoryShares, node: str) -> None:
        self._group = group
        self._shares = shares
        self._node = node
        self._keepers: list[int | None] = []
        self.shortage: str | None = None
        """Why no snapshots are made any more, if a node has no room for them; known after an attempt."""

    def keep(self, snapshot: SnapshotId, parts: Mapping[str, Tensors], state: Mapping[str, Any]) -> bool:
        """Copy the state as it is now; whether that was possible, on every rank alike. Collective.

        Args:
            snapshot: its name.
            parts: the state of this rank, sharded tensors as they are.
            state: what is not a tensor, the same on every rank.
        """
        plans = plan_shares(parts, self._group.world)
        if not self._keepers:
            self._meet([total_bytes(plan) for plan in plans])
        if self.shortage is not None:
            return False
        rank, published = self._group.rank, self._shares.published()
        sizes = {other: total_bytes(plans[other]) for other in kept_by(rank, self._keepers)}
        self._shares.retire(published[-1].snapshot if published else None, sizes.values())
        buffers = self._stage(snapshot, sizes)
        if buffers is None:
            return False
        copy = ShareCopy(parts, plans[rank], buffers[rank])
        copy.run()
        copy.finish_before_update()
        failpoint("memory.copied")
        self._exchange(buffers)
        for other in buffers:
            self._shares.publish(ShareId(snapshot, other), {"state": dict(state), "objects": described(plans[other])})
        failpoint("memory.kept")
        return True

    def _meet(self, sizes: Sequence[int]) -> None:
        """Learn who is where, and whether every node has room for what its ranks will keep."""
        told = self._group.gather_json([self._node, self._shares.room])
        nodes = [node for node, _ in told]
        self._keepers = keepers(nodes)
        for node in dict.fromkeys(nodes):
            ranks = [rank for rank, name in enumerate(nodes) if name == node]
            needed = _MARGIN + sum(AT_A_TIME * sizes[other] for rank in ranks for other in kept_by(rank, self._keepers))
            room = min(told[rank][1] for rank in ranks)  # all see the same memory, one a moment later than the other
            if needed > room:
                self.shortage = f"node {node} needs {needed >> 20} MiB of /dev/shm for them and has {room >> 20} MiB"
                return

    def _stage(self, snapshot: SnapshotId, sizes: Mapping[int, int]) -> dict[int, torch.Tensor] | None:
        """Room for the shares of these ranks; None, on every rank, if one has no more. Collective.

        There was enough when the group met, but others may use that memory too.
        """
        buffers: dict[int, torch.Tensor] = {}
        with contextlib.suppress(OSError):
            for other, size in sizes.items():
                buffers[other] = self._shares.stage(ShareId(snapshot, other), size)
        lacking = torch.tensor([int(len(buffers) < len(sizes))], device=self._group.device)
        if not self._group.sum(lacking).item():
            return buffers
        self._shares.drop_unfinished()
        self.shortage = "a node's /dev/shm has become too full for them"
        return None

    def _exchange(self, buffers: Mapping[int, torch.Tensor]) -> None:
        """Send this rank's share to its keeper, and receive those it keeps."""
        rank = self._group.rank
        keeper = self._keepers[rank]
        sends = [] if keeper is None else [(buffers[rank], keeper)]
        self._group.exchange(sends, [(buffer, other) for other, buffer in buffers.items() if other != rank])


def described(plan: Sequence[PlannedObject]) -> list[Description]:
    """The layout of a share as JSON: where each tensor's bytes are, and which rows of it they are."""
    return [
        {
            "part": planned.part,
            "name": placed.name,
            "dtype": placed.extent.dtype_name,
            "shape": list(placed.extent.shape),
            "global_shape": list(placed.extent.global_shape or placed.extent.shape),
            "offsets": list(placed.extent.offsets or [0] * len(placed.extent.shape)),
            "start": planned.at + placed.start,
            "stop": planned.at + placed.stop,
        }
        for planned in plan
        for placed in planned.tensors
    ]
