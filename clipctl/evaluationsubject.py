"""Finds the model that `clipctl eval` means: a run's checkpoint, a directory, or a name with weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipctl.contract.errors import MissingError, SpecError
from clipctl.evaluation import Subject, require_model

if TYPE_CHECKING:
    from clipctl.contract.commits import CommitRecord
    from clipctl.contract.layout import CheckpointId
    from clipctl.contract.spec import RunSpec
    from clipctl.contract.store import ObjectStore

CONFIG = "open_clip_config.json"
_SCHEMES = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class Choice:
    """Which weights.

    Attributes:
        pretrained: tag or file, of a model that is given by name.
        step: of the checkpoint of a run. None: the newest that verifies.
        raw_weights: the trained weights also where the run averages them.
    """

    pretrained: str | None = None
    step: int | None = None
    raw_weights: bool = False


def find_subject(
    target: str, scratch: Path, choice: Choice, namespace: str | None = None, context: str | None = None
) -> Subject:
    """What to evaluate.

    Args:
        target: see `clipctl eval -h`.
        scratch: an empty directory for the weights of a checkpoint.
        choice: which weights.
        namespace: where to look for a run.
        context: of the kubeconfig.

    Raises:
        ClipError: there is no such thing, or it is damaged.
    """
    if choice.pretrained is not None:
        if choice.step is not None:
            raise SpecError("--step chooses a checkpoint of a run, --pretrained the weights of a model.")
        return Subject(f"{target} {choice.pretrained}", target, choice.pretrained)
    if target.startswith(_SCHEMES):
        return Subject(target, target)
    if os.path.isfile(os.path.join(target, CONFIG)):
        return Subject(target, f"local-dir:{target}")
    if not os.path.exists(target):
        require_model(target)
    return _checkpoint(target, scratch, choice, namespace, context)


def spec_of(target: str) -> RunSpec | None:
    """The specification, if the target is a run.yaml."""
    if not target.endswith((".yaml", ".yml")):
        return None
    from clipctl.specfile import load_spec

    return load_spec(target)


def _checkpoint(target: str, scratch: Path, choice: Choice, namespace: str | None, context: str | None) -> Subject:
    from clipctl.exportcheckpoint import export
    from clipctl.runtarget import find

    found = find(target, namespace, context)
    if "://" not in found.run_root and not Path(found.run_root).expanduser().is_dir():
        raise MissingError(f"{found.run_root} does not exist.", hint="Nothing was stored for this run yet.")
    store = found.open()
    chosen = _newest(store) if choice.step is None else _at_step(store, choice.step)
    folder = scratch / "model"
    export(store, chosen, str(folder), averaged=not choice.raw_weights)
    return Subject(f"{target} {chosen}", f"local-dir:{folder}", checkpoint=str(chosen))


def _newest(store: ObjectStore) -> CheckpointId:
    from clipctl.contract.commits import newest_verified
    from clipctl.output import note

    record: CommitRecord | None = newest_verified(
        store, lambda rejection: note(f"REJECTED {rejection.checkpoint}: {rejection.problem}")
    )
    if record is None:
        raise MissingError(f"{store.root} holds no checkpoint.", hint="The run has not committed one yet.")
    return record.id


def _at_step(store: ObjectStore, step: int) -> CheckpointId:
    """The checkpoint of a step; of several incarnations' the newest."""
    from clipctl.contract.commits import list_checkpoints

    checkpoints = list_checkpoints(store)
    found = [checkpoint for checkpoint in checkpoints if checkpoint.step == step]
    if not found:
        steps = sorted({checkpoint.step for checkpoint in checkpoints})
        known = ", ".join(map(str, steps[-10:])) or "none"
        raise MissingError(f"{store.root} has no checkpoint of step {step}.", hint=f"There are: {known}.")
    return found[-1]
