"""Naming a checkpoint of a run: `latest`, `best`, a step, or an id as `clipctl checkpoints ls` prints it."""

from __future__ import annotations

import re
from collections.abc import Callable

from clipctl.contract.commits import Rejection, list_checkpoints, read_commit, verify
from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.layout import CheckpointId, parse_checkpoint_id
from clipctl.contract.retention import Candidate, by_loss
from clipctl.contract.store import ObjectStore

LATEST = "latest"
BEST = "best"
LOSS = "loss"
"""The metric of a commit record that `best` means: lower is better."""

_STEP = re.compile(r"[0-9]{1,16}")


def is_selector(text: str) -> bool:
    """Whether `text` can name a checkpoint."""
    return text in (LATEST, BEST) or bool(_STEP.fullmatch(text)) or parse_checkpoint_id(text) is not None


def split_target(text: str) -> tuple[str, str | None]:
    """`RUN[@WHICH]` as its two halves; the last `@` counts, and only in the last part of a path.

    Raises:
        SpecError: what follows the `@` names no checkpoint.
    """
    run, at, which = text.rpartition("@")
    if not at or "/" in which:
        return text, None
    if not run or not is_selector(which):
        raise SpecError(
            f"{which[:80]!a} in {text[:80]!a} is not the id of a checkpoint.",
            hint="After the @: latest, best, a step, or an id such as step-00000100.inc-000001.",
        )
    return run, which


def candidates(store: ObjectStore) -> list[Candidate]:
    """All committed checkpoints with the loss in their records, oldest first; none for a damaged record."""
    return [Candidate(checkpoint, _loss(store, checkpoint)) for checkpoint in list_checkpoints(store)]


def matches(store: ObjectStore, which: str) -> list[CheckpointId]:
    """The committed checkpoints that `which` may mean, the most wanted first; nothing of them is verified.

    A damaged checkpoint is passed over for the next one in this list, which for a step is that of an older incarnation.

    Raises:
        MissingError: there is none.
        SpecError: `which` can name no checkpoint.
    """
    if not is_selector(which):
        raise SpecError(
            f"{which[:80]!a} is not the id of a checkpoint.",
            hint="Give latest, best, a step, or an id such as step-00000100.inc-000001.",
        )
    committed = list_checkpoints(store)
    if which == LATEST:
        found = committed[::-1]
    elif which == BEST:
        found = by_loss(candidates(store))
    elif _STEP.fullmatch(which):
        found = [checkpoint for checkpoint in reversed(committed) if checkpoint.step == int(which)]
    else:
        found = [checkpoint for checkpoint in committed if str(checkpoint) == which]
    if not found:
        raise MissingError(f"{store.root} {_absence(which, bool(committed))}", hint=_remedy(bool(committed)))
    return found


def select(store: ObjectStore, which: str) -> CheckpointId:
    """The committed checkpoint `which` means; it is not verified. Raises `MissingError` or `SpecError`."""
    return matches(store, which)[0]


def select_verified(store: ObjectStore, which: str, on_reject: Callable[[Rejection], None]) -> CheckpointId:
    """Like `select`, but the first one of `matches` of which every byte is intact.

    Raises:
        CorruptError: there are some, but none is intact.
        MissingError, SpecError: as `select`.
    """
    found = matches(store, which)
    for checkpoint in found:
        try:
            verify(store, checkpoint)
        except (CorruptError, MissingError) as error:
            on_reject(Rejection(checkpoint, error.problem))
        else:
            return checkpoint
    if len(found) == 1:
        raise CorruptError(f"checkpoint {found[0]} in {store.root} is damaged.")
    raise CorruptError(f"all {len(found)} committed checkpoints in {store.root} are damaged.")


def _loss(store: ObjectStore, checkpoint: CheckpointId) -> float | None:
    try:
        return read_commit(store, checkpoint).metrics.get(LOSS)
    except (CorruptError, MissingError):
        return None


def _absence(which: str, others: bool) -> str:
    if not others:
        return "holds no checkpoint."
    return "holds no checkpoint with a loss." if which == BEST else f"holds no checkpoint {which}."


def _remedy(others: bool) -> str:
    return "`clipctl checkpoints ls` lists them." if others else "The run has not committed one yet."
