"""A sharded training state without processes: stand-ins for sharded tensors, and their checkpoints in small chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from clip_trainer.checkpoint.copying import ShareCopy
from clip_trainer.checkpoint.objects import plan_shares, total_bytes
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.checkpoint.uploading import describe
from clip_trainer.parallel.pieces import rows_of
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import chunk_digests, sha256_hex
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore

Sharded = Any
"""What `rows_of_rank` makes; to code under test it is a tensor."""


class _Rows:
    """As much of torch's `DTensor` as ours needs to know one."""

    def __init__(self, whole: torch.Tensor, rank: int, world: int) -> None:
        self.shape, self.dtype, self.ndim = whole.shape, whole.dtype, whole.ndim
        start, stop = rows_of(len(whole), rank, world)
        self._own = whole[start:stop].clone()

    def __len__(self) -> int:
        return self.shape[0]

    def detach(self) -> _Rows:
        return self

    def to_local(self) -> torch.Tensor:
        return self._own


def rows_of_rank(tensors: Tensors, rank: int, world: int) -> dict[str, Sharded]:
    """What a rank has of tensors: its rows of those with several, all of the others."""
    return {name: _Rows(t, rank, world) if t.ndim and len(t) > 1 else t for name, t in tensors.items()}


def commit_sharded(
    store: ObjectStore, checkpoint: CheckpointId, parts: Mapping[str, Tensors], world: int, chunk_bytes: int
) -> None:
    """Store and commit `parts` as `world` ranks would that shard them."""
    objects = []
    for rank in range(world):
        state = {part: rows_of_rank(tensors, rank, world) for part, tensors in parts.items()}
        plan = plan_shares(state, world)[rank]
        buffer = torch.empty(total_bytes(plan), dtype=torch.uint8)
        ShareCopy(state, plan, buffer).run()
        for planned in plan:
            data = buffer.numpy().data[planned.at : planned.stop]
            tensors = describe(planned, data).tensors
            digests = tuple(chunk_digests(data, chunk_bytes))
            objects.append(StoredObject(planned.name, len(data), digests, chunk_bytes, tensors))
            store.write(layout.checkpoint_prefix(checkpoint) + planned.name, bytes(data))
    manifest = Manifest(tuple(objects), {}).to_bytes()
    store.write(layout.manifest_key(checkpoint), manifest)
    where = checkpoint.step, checkpoint.incarnation, 1, 12 * checkpoint.step, world
    record = CommitRecord("demo", *where, sha256_hex(manifest), 0, "spec", "training", None, 1.0, "me")
    store.write(layout.commit_key(checkpoint), record.to_bytes())
