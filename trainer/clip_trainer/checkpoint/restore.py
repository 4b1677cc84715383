"""Resuming: rank 0 reads and verifies the newest intact checkpoint, the others get the tensors from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clip_trainer.checkpoint.exchange import broadcast_bytes, broadcast_state
from clip_trainer.checkpoint.reading import Opened, open_checkpoint
from clip_trainer.checkpoint.tensors import Tensors, copy_into, to_device
from clip_trainer.train.group import Group
from clipctl.contract.commits import Rejection, newest
from clipctl.contract.errors import CorruptError, SpecError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore


@dataclass(frozen=True)
class Restored:
    """What was resumed from, the JSON state that was stored with it, and tensors.

    Those are the ones that no target was given for, or all that room was made for (`restore_sharded`).
    """

    checkpoint: CheckpointId
    samples_consumed: int
    state: dict[str, Any]
    tensors: dict[str, Tensors] = field(default_factory=dict)


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
        opened, tensors = loaded
        check_identity(opened, training_digest)
        _fill(parts, opened.id, tensors)
        held.update({name: to_device(tensors[name], group.device) for name in tensors if name not in parts})
        return {
            "id": [opened.id.step, opened.id.incarnation],
            "at": opened.commit.samples_consumed,
            "state": opened.manifest.state,
        }

    answer = group.on_first(load)
    if answer is None:
        return None
    broadcast_bytes(group, 0, (parts[name][key] for name in sorted(parts) for key in sorted(parts[name])))
    others = broadcast_state(group, 0, held)
    return Restored(CheckpointId(*answer["id"]), answer["at"], answer["state"], others)


def _read(store: ObjectStore, checkpoint: CheckpointId) -> tuple[Opened, dict[str, Tensors]]:
    opened = open_checkpoint(store, checkpoint)
    return opened, opened.read()


def check_identity(opened: Opened, training_digest: str) -> None:
    """Refuse a checkpoint of another training. Raises `SpecError`."""
    if opened.commit.training_digest != training_digest:
        raise SpecError(
            f"checkpoint {opened.id} belongs to a run with another model, data, global batch or seed.",
            hint="Give the changed run a new name, or restore the old values in run.yaml.",
        )


def _fill(parts: Mapping[str, Tensors], checkpoint: CheckpointId, tensors: Mapping[str, Tensors]) -> None:
    for name, target in parts.items():
        problems = copy_into(target, tensors.get(name, {}))
        if problems:
            raise CorruptError(f"checkpoint {checkpoint} does not fit the model: {'; '.join(problems[:3])}.")
