"""What storage holds of a run: asked before each resume, and now and then for the metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from clip_operator.world import CheckpointSummary
from clipctl.contract import commits, layout
from clipctl.contract.errors import ClipError, CorruptError, MissingError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.redact import redact
from clipctl.contract.store import ObjectStore, open_store

OpenStore = Callable[[str], ObjectStore]


@dataclass(frozen=True)
class StorageProgress:
    """What a cheap look at storage tells: nothing of it is verified."""

    committed_step: int | None = None
    goodput: float | None = None
    eta_seconds: float | None = None


def inspect(root: str, opener: OpenStore = open_store) -> CheckpointSummary:
    """Verify every byte of the newest checkpoint, then the one before it, until one is sound. Never raises `ClipError`.

    Storage that cannot be asked is no reason to hold the run back: the trainer verifies for itself before it resumes.
    A local path is such storage: it lies in the worker pods.
    """
    if "://" not in root:
        return CheckpointSummary(problem=f"{root or 'its checkpoint root'} is not visible to the operator")
    rejected: list[str] = []
    try:
        failpoint("operator.inspect")
        commit = commits.newest_verified(opener(root), lambda r: rejected.append(f"{r.checkpoint}: {r.problem}"))
    except CorruptError as error:
        return CheckpointSummary(rejected=tuple(rejected), problem=redact(str(error)), all_corrupt=True)
    except ClipError as error:
        problem = redact(f"storage cannot be asked ({error.problem})")
        return CheckpointSummary(rejected=tuple(rejected), problem=problem)
    if commit is None:
        return CheckpointSummary()
    return CheckpointSummary(str(commit.id), commit.step, tuple(rejected))


def progress(root: str, opener: OpenStore = open_store) -> StorageProgress:
    """Newest committed step, goodput and remaining time, as far as storage answers."""
    if "://" not in root:
        return StorageProgress()
    try:
        store = opener(root)
        committed = commits.list_checkpoints(store)
        status = _status(store)
    except ClipError:
        return StorageProgress()
    step = committed[-1].step if committed else None
    return StorageProgress(step, _number(status.get("goodput")), _number(status.get("eta_seconds")))


def _status(store: ObjectStore) -> dict[str, object]:
    try:
        raw = json.loads(store.read(layout.STATUS))
    except (MissingError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
