"""Resuming: rank 0 reads and verifies the newest intact checkpoint, the others get the tensors from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from clip_trainer.checkpoint.tensors import Tensors, copy_into
from clip_trainer.model.interchange import from_bytes
from clip_trainer.train.group import Group
from clipctl.contract.commits import Rejection, newest, read_commit, read_manifest, read_object
from clipctl.contract.errors import CorruptError, SpecError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore


@dataclass(frozen=True)
class Restored:
    """What was resumed from, the JSON state that was stored with it, and the tensors that no target was given for."""

    checkpoint: CheckpointId
    samples_consumed: int
    state: dict[str, Any]
    tensors: dict[str, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class _Loaded:
    restored: Restored
    training_digest: str
    parts: dict[str, Tensors]


def restore(
    store: ObjectStore,
    group: Group,
    parts: Mapping[str, Tensors],
    training_digest: str,
    on_reject: Callable[[Rejection], None],
    wanted: Callable[[CheckpointId], bool] = lambda _: True,
) -> Restored | None:
    """Fill `parts` in place, on every rank, from the newest intact checkpoint; None if there is none.

    What the checkpoint holds beyond `parts` comes back as tensors on the group's device.

    Args:
        store: the run's store.
        group: the ranks.
        parts: targets by part of the checkpoint.
        training_digest: of this run.
        on_reject: called on rank 0 for each checkpoint that is damaged.
        wanted: which checkpoints to look at. Default: all.

    Raises:
        CorruptError: all committed checkpoints are damaged, or one does not fit the model.
        SpecError: the checkpoint belongs to a run with another model, data order or global batch.
    """
    held: dict[str, Tensors] = {}

    def load() -> dict[str, Any] | None:
        loaded = newest(store, _read, on_reject, wanted)
        if loaded is None:
            return None
        _check_identity(loaded, training_digest)
        _fill(parts, loaded)
        held.update({name: tensors for name, tensors in loaded.parts.items() if name not in parts})
        found = loaded.restored
        return {
            "id": [found.checkpoint.step, found.checkpoint.incarnation],
            "at": found.samples_consumed,
            "state": found.state,
            "others": {name: _describe(tensors) for name, tensors in held.items()},
        }

    answer = group.on_first(load)
    if answer is None:
        return None
    for name in sorted(parts):
        group.broadcast_tensors(parts[name][key] for key in sorted(parts[name]))
    others = {name: _share(group, held.get(name), shapes) for name, shapes in sorted(answer["others"].items())}
    return Restored(CheckpointId(*answer["id"]), answer["at"], answer["state"], others)


def _describe(tensors: Tensors) -> dict[str, Any]:
    return {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in tensors.items()}


def _share(group: Group, own: Tensors | None, shapes: dict[str, Any]) -> Tensors:
    """The tensors of rank 0 on every rank's device."""
    shared: Tensors = {}
    for key, (shape, dtype) in sorted(shapes.items()):
        shared[key] = torch.empty(shape, dtype=getattr(torch, dtype), device=group.device)
        if own is not None:
            shared[key].copy_(own[key])
        group.broadcast_tensors([shared[key]])
    return shared


def _read(store: ObjectStore, checkpoint: CheckpointId) -> _Loaded:
    commit = read_commit(store, checkpoint)
    manifest = read_manifest(store, commit)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for stored in manifest.objects:
        tensors = from_bytes(read_object(store, checkpoint, stored))
        parts.setdefault(stored.name.partition("-")[0], {}).update(tensors)
    return _Loaded(Restored(checkpoint, commit.samples_consumed, manifest.state), commit.training_digest, parts)


def _check_identity(loaded: _Loaded, training_digest: str) -> None:
    if loaded.training_digest != training_digest:
        raise SpecError(
            f"checkpoint {loaded.restored.checkpoint} belongs to a run with another model, data, global batch or seed.",
            hint="Give the changed run a new name, or restore the old values in run.yaml.",
        )


def _fill(parts: Mapping[str, Tensors], loaded: _Loaded) -> None:
    for name, target in parts.items():
        problems = copy_into(target, loaded.parts.get(name, {}))
        if problems:
            raise CorruptError(
                f"checkpoint {loaded.restored.checkpoint} does not fit the model: {'; '.join(problems[:3])}."
            )
