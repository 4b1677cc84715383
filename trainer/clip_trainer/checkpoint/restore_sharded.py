"""Resuming a sharded run: rank 0 chooses the checkpoint, and every rank reads its own rows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from clip_trainer.checkpoint.reading import Opened, open_checkpoint
from clip_trainer.checkpoint.restore import Restored, check_identity
from clip_trainer.checkpoint.rows import Shapes, fill, shapes_of
from clip_trainer.checkpoint.tensors import Tensors, misfits
from clip_trainer.train.group import Group
from clipctl.contract.commits import Rejection, all_damaged, newest
from clipctl.contract.errors import CorruptError, MissingError
from clipctl.contract.layout import CheckpointId, parse_checkpoint_id
from clipctl.contract.store import ObjectStore

Room = Callable[[Mapping[str, Shapes]], dict[str, Tensors]]
"""Tensors to be filled by part of the checkpoint, given what the checkpoint holds."""


class _MisfitError(CorruptError):
    """Another checkpoint would not fit better."""


def restore_sharded(
    store: ObjectStore,
    group: Group,
    room: Room,
    training_digest: str,
    on_reject: Callable[[Rejection], None],
    wanted: Callable[[CheckpointId], bool] = lambda _: True,
) -> Restored | None:
    """Fill what `room` makes, on every rank, from the newest intact checkpoint; None if there is none. Collective.

    A checkpoint is damaged if any rank finds its rows so. Parts without room are not read.

    Args:
        store: the run's store.
        group: the ranks.
        room: called on every rank, with the same shapes.
        training_digest: of this run.
        on_reject: called on rank 0 for each checkpoint that is damaged.
        wanted: which checkpoints to look at. Default: all.

    Raises:
        CorruptError: all committed checkpoints are damaged, or one does not fit the model.
        SpecError: the checkpoint belongs to a run with another model, data order or global batch.
    """
    rejected: list[CheckpointId] = []
    held: list[Restored] = []

    def reject(rejection: Rejection) -> None:
        rejected.append(rejection.checkpoint)
        on_reject(rejection)

    def choose() -> str | None:
        opened = newest(store, open_checkpoint, reject, lambda found: wanted(found) and found not in rejected)
        if opened is None and rejected:
            raise all_damaged(store, len(rejected))
        if opened is None:
            return None
        check_identity(opened, training_digest)
        return str(opened.id)

    def read(checkpoint: CheckpointId) -> str | None:
        try:
            opened, shapes = _open(store, checkpoint)
            held.append(_read(opened, _fitting(opened, room(shapes), shapes), group))
        except _MisfitError:
            raise
        except (CorruptError, MissingError) as error:
            return error.problem
        return None

    while (chosen := group.on_first(choose)) is not None:
        checkpoint = parse_checkpoint_id(chosen)
        assert checkpoint is not None
        problems = [problem for problem in group.on_each(partial(read, checkpoint)) if problem is not None]
        if not problems:
            return held[-1]
        if group.is_first:
            reject(Rejection(checkpoint, problems[0]))
    return None


def _open(store: ObjectStore, checkpoint: CheckpointId) -> tuple[Opened, dict[str, Shapes]]:
    opened = open_checkpoint(store, checkpoint)
    parts = dict.fromkeys(stored.part for stored in opened.manifest.objects)
    return opened, {part: shapes_of(opened, part) for part in parts}


def _fitting(opened: Opened, tensors: dict[str, Tensors], shapes: Mapping[str, Shapes]) -> dict[str, Tensors]:
    for part, target in tensors.items():
        problems = misfits(target, {name: shape for name, (shape, _) in shapes.get(part, {}).items()})
        if problems:
            raise _MisfitError(f"checkpoint {opened.id} does not fit the model: {'; '.join(problems[:3])}.")
    return tensors


def _read(opened: Opened, tensors: dict[str, Tensors], group: Group) -> Restored:
    for part, target in tensors.items():
        fill(opened, part, target, group.rank, group.world)
    return Restored(opened.id, opened.commit.samples_consumed, opened.manifest.state, tensors)
