"""Beginning with the state of another run of ours: weights, optimiser and position, read from its store.

The other run is only read. Both must have the same model, data, global batch and seed, or its position would mean
other samples here; who wants only the weights has `model.pretrained`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_trainer.checkpoint.restore import Restored
from clip_trainer.train.group import Group
from clipctl.contract.checkpoint_selector import select_verified
from clipctl.contract.commits import Rejection, read_commit
from clipctl.contract.errors import CorruptError, SpecError
from clipctl.contract.layout import CheckpointId, parse_checkpoint_id
from clipctl.contract.resume_source import ResumeRun, parse_resume_source
from clipctl.contract.store import open_store

if TYPE_CHECKING:
    from clip_trainer.train.trainable import Trainable


def adopt_run(trainable: Trainable, group: Group, location: str, training_digest: str) -> Restored:
    """Become what a checkpoint of another run holds. Collective.

    Args:
        trainable: what becomes of it.
        group: the ranks.
        location: `ROOT[@WHICH]`, see `resume_source`.
        training_digest: of this run.

    Raises:
        MissingError: there is no such checkpoint.
        CorruptError: none that is meant is intact.
        SpecError: it was made with another model, data, global batch or seed; or `location` names no run.
    """
    source = parse_resume_source(location)
    if not isinstance(source, ResumeRun):
        raise SpecError(f"{location} is not the root of a run.")
    store = open_store(source.root)

    def choose() -> str:
        rejected: list[Rejection] = []
        chosen = select_verified(store, source.which, rejected.append)
        if read_commit(store, chosen).training_digest != training_digest:
            raise SpecError(
                f"{location} was trained with another model, data, global batch or seed, and cannot be continued here.",
                hint="To start from its weights only, export it and set model.pretrained.",
            )
        return str(chosen)

    chosen: CheckpointId | None = parse_checkpoint_id(group.on_first(choose))

    def damaged(rejection: Rejection) -> None:
        raise CorruptError(f"checkpoint {rejection.checkpoint} of {location} is damaged: {rejection.problem}")

    found = trainable.restore(store, group, training_digest, damaged, lambda checkpoint: checkpoint == chosen)
    if found is None:
        raise CorruptError(f"checkpoint {chosen} of {location} vanished while it was read.")
    return found
