"""What a run's storage tells about it: the trainer's progress, the committed checkpoints, the results.

Storage may be slow or unreachable from where the CLI runs, so looking into it has a time limit and never fails the
command that only wants to show it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clipctl.backends.base import Progress
from clipctl.contract import layout
from clipctl.contract.commits import list_checkpoints, read_commit
from clipctl.contract.errors import ClipError, MissingError, UnavailableError
from clipctl.contract.store import ObjectStore, open_store

READ_SECONDS = 10.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CheckpointSummary:
    """A committed checkpoint as its commit record describes it."""

    id: str
    step: int
    incarnation: int
    attempt: int
    samples_consumed: int
    world_size: int
    bytes_total: int
    created_at: float
    parent: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageView:
    """One look into a run's storage; `problem` says why there was none."""

    progress: Progress = field(default_factory=Progress)
    checkpoints: int = 0
    newest: CheckpointSummary | None = None
    results: dict[str, Any] | None = None
    problem: str = ""


def look(run_root: str, environment: Mapping[str, str]) -> StorageView:
    """Read what there is below `run_root`; problems become `StorageView.problem`.

    Args:
        run_root: URL or path of the run.
        environment: plain variables of the run; those this process lacks are used, for the S3 endpoint.
    """
    if not run_root:
        return StorageView(problem="the run does not say where its storage is")
    try:
        with storage_environment(environment):
            return within(READ_SECONDS, lambda: _look(open_store(run_root)), f"{run_root} did not answer")
    except ClipError as error:
        return StorageView(problem=str(error))


def read_results(store: ObjectStore) -> dict[str, Any] | None:
    """The results of a finished run; None while there are none."""
    try:
        parsed = json.loads(store.read(layout.RESULTS))
    except (MissingError, ValueError):
        return None
    return parsed if isinstance(parsed, dict) else None


def summaries(store: ObjectStore) -> Iterator[CheckpointSummary | tuple[str, ClipError]]:
    """All committed checkpoints, newest first; a damaged commit record yields its id and what is wrong."""
    for checkpoint in reversed(list_checkpoints(store)):
        try:
            record = read_commit(store, checkpoint)
        except ClipError as error:
            yield str(checkpoint), error
            continue
        yield CheckpointSummary(
            id=str(checkpoint),
            step=record.step,
            incarnation=record.incarnation,
            attempt=record.attempt,
            samples_consumed=record.samples_consumed,
            world_size=record.world_size,
            bytes_total=record.bytes_total,
            created_at=record.created_at,
            parent=record.parent,
            metrics=record.metrics,
        )


@contextlib.contextmanager
def storage_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Set the variables this process lacks for the time of the block; the user's own always win."""
    missing = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def within(seconds: float, read: Callable[[], _Result], problem: str) -> _Result:
    """The result of `read`, which runs in a thread of its own.

    Raises:
        UnavailableError: it took longer than `seconds`; the thread is left behind and dies with the process.
    """
    outcome: list[_Result | BaseException] = []

    def run() -> None:
        try:
            outcome.append(read())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise UnavailableError(f"{problem} within {seconds:.0f} s.", hint="Check AWS_ENDPOINT_URL and the network.")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _look(store: ObjectStore) -> StorageView:
    status = store.read_version(layout.STATUS)
    progress = Progress() if status is None else Progress.from_json(status[0])
    committed = list_checkpoints(store)
    newest = next((item for item in summaries(store) if isinstance(item, CheckpointSummary)), None)
    return StorageView(progress, len(committed), newest, read_results(store))
