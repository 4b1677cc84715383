"""Runs on this machine: the same launcher, elastic settings and coordinator as on a cluster, in processes."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from clipctl.backends import locallogs
from clipctl.backends.base import (
    Action,
    BackendName,
    Plan,
    PodStatus,
    RunStatus,
    RunSummary,
    SubmitOptions,
    SubmitResult,
)
from clipctl.backends.diff import refuse_changed
from clipctl.backends.localstate import (
    REASON_INTERRUPTED,
    RunDirectory,
    Submission,
    SupervisorState,
    registry,
)
from clipctl.contract import names
from clipctl.contract.errors import (
    CannotCreateError,
    InternalError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)
from clipctl.contract.spec import RunSpec

_START_SECONDS = 120.0  # far more than it takes; a supervisor that dies is noticed at once
_STOP_RESERVE = 30.0
_POLL_SECONDS = 0.05
_ENDED = frozenset({names.STATE_SUCCEEDED, names.STATE_FAILED, names.STATE_STOPPED})


class LocalBackend:
    """Runs of this user on this machine, listed in a directory (see `localstate`).

    Args:
        environment: of the user; it tells where the registry is and is handed to the workers.
        worker: module that a worker runs.
        sleep: waits between two looks.
    """

    name: BackendName = "local"

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        worker: str = "clip_trainer.main",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._registry = registry(self._environment)
        self._worker = worker
        self._sleep = sleep

    def submit(self, plan: Plan, options: SubmitOptions) -> SubmitResult:
        """See `Backend.submit`."""
        _check_installed()
        self._check_secrets(plan.spec)
        directory = RunDirectory(self._registry / plan.name)
        old = directory.read_config()
        action: Action = "created"
        if old is not None:
            action = "resumed" if old.get("spec_digest") == plan.digest else "replaced"
            if action == "replaced" and not options.replace:
                raise refuse_changed(plan.name, old.get("spec") or {}, plan.spec.resolved())
            if action == "resumed" and not options.replace:
                _check_same_place(plan, directory.read_submission())
            if action == "resumed" and (directory.supervised() or _state(directory).state == names.STATE_SUCCEEDED):
                return self._result(plan, "unchanged", directory)
            self._end(directory)
        self._start(plan, directory)
        return self._result(plan, action, directory)

    def status(self, name: str) -> RunStatus:
        """See `Backend.status`."""
        directory = self._directory(name)
        config, submission, state = directory.read_config() or {}, directory.read_submission(), _state(directory)
        spec = config.get("spec") or {}
        return RunStatus(
            name=name,
            backend="local",
            state=state.state,
            reason=state.reason,
            message=state.message,
            attempt=state.attempt,
            location=str(directory.path),
            run_root=_run_root(spec, submission),
            spec_digest=str(config.get("spec_digest", "")),
            created_at=submission.created_at if submission else None,
            finished_at=state.finished_at,
            exit_code=state.exit_code,
            attempt_causes=state.causes,
            pods=_pods(state),
            storage_env=dict(spec.get("env") or {}),
        )

    def list(self) -> builtins.list[RunSummary]:
        """See `Backend.list`."""
        found = []
        for path in self._registry.iterdir() if self._registry.is_dir() else ():
            directory = RunDirectory(path)
            submission = directory.read_submission()
            if submission is not None:
                state = _state(directory)
                found.append(
                    RunSummary(path.name, "local", state.state, state.attempt, submission.created_at, str(path))
                )
        return sorted(found, key=lambda summary: (-(summary.created_at or 0), summary.name))

    def logs(self, name: str, follow: bool, rank: int | None) -> Iterator[str]:
        """See `Backend.logs`."""
        directory = self._directory(name)
        return locallogs.log_lines(directory, rank, follow, lambda: not directory.supervised(), self._sleep)

    def stop(self, name: str) -> None:
        """See `Backend.stop`; returns when no process of the run is left."""
        self._end(self._directory(name))

    def delete(self, name: str) -> None:
        """See `Backend.delete`; logs and state are removed, checkpoints stay."""
        directory = self._directory(name)
        self._end(directory)
        shutil.rmtree(directory.path)

    def _directory(self, name: str) -> RunDirectory:
        directory = RunDirectory(self._registry / name)
        if "/" in name or directory.read_submission() is None:
            raise MissingError(f"there is no local run {name}.", hint="`clipctl list` shows all runs.")
        return directory

    def _start(self, plan: Plan, directory: RunDirectory) -> None:
        try:
            directory.prepare()
            earlier, state, now = directory.read_submission(), directory.read_state(), time.time()
            created = earlier.created_at if earlier else now
            # Each attempt needs a number of its own, also across submissions: it is part of the rendezvous id.
            used = max(earlier.attempt if earlier else 0, state.attempt if state else 0)
            directory.write_submission(Submission(os.getcwd(), created, now, used + 1))
            directory.write_config(plan.config())
            directory.forget_state()
        except PermissionError as error:
            raise PermissionDeniedError(
                f"cannot write {error.filename}.", hint=f"Set {names.ENV_HOME} to a directory of yours."
            ) from error
        except OSError as error:
            raise CannotCreateError(
                f"cannot write {error.filename or directory.path}: {error.strerror}.",
                hint=f"Set {names.ENV_HOME} to a directory with room.",
            ) from error
        with directory.supervisor_log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "clipctl.backends.supervisor", str(directory.path), self._worker],
                env={**self._environment, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is the command line's business, not the run's
            )
        self._wait_until_supervised(directory, process)

    def _wait_until_supervised(self, directory: RunDirectory, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ended = process.poll() is not None  # asked before reading: it may speak and end between the two
            state = directory.read_state()
            if state is not None and state.pid == process.pid:
                # It outlives us, or becomes a zombie of ours if it does not: somebody has to wait for it.
                threading.Thread(target=process.wait, daemon=True).start()
                return
            if ended or time.monotonic() > deadline:
                said = directory.supervisor_log.read_text(errors="replace").strip().splitlines()
                raise InternalError(
                    f"the supervisor of {directory.name} did not start: {said[-1] if said else 'it said nothing'}",
                    hint=f"Its log is {directory.supervisor_log}.",
                )
            self._sleep(_POLL_SECONDS)

    def _end(self, directory: RunDirectory) -> None:
        """Stop the supervisor, which stops everything else, and wait until it is gone."""
        if not directory.supervised():
            return
        spec = (directory.read_config() or {}).get("spec") or {}
        patience = float((spec.get("scale") or {}).get("grace_seconds", 60)) + _STOP_RESERVE
        deadline = time.monotonic() + patience
        told = 0
        while directory.supervised():
            state = directory.read_state()
            if state is not None and state.pid != told:  # it writes its pid only while it holds the lock
                told = state.pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(told, signal.SIGTERM)
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"run {directory.name} has not stopped after {patience:.0f} s.",
                    hint=f"Look at {directory.supervisor_log}, or kill process {told}.",
                )
            self._sleep(_POLL_SECONDS)

    def _check_secrets(self, spec: RunSpec) -> None:
        missing = sorted(set(spec.secrets) - set(self._environment))
        if missing:
            raise MissingError(
                f"the run takes {', '.join(missing)} from secrets, which local runs take from the environment.",
                hint=f"Set {missing[0]} in this shell before submitting.",
            )

    def _result(self, plan: Plan, action: Action, directory: RunDirectory) -> SubmitResult:
        return SubmitResult(plan.name, action, "local", str(directory.path))


def _check_installed() -> None:
    for module in ("torch", "clip_trainer"):
        if importlib.util.find_spec(module) is None:
            raise MissingError(
                f"local runs need {module}, which {sys.executable} does not have.",
                hint="Install it with: pip install 'clipctl[trainer]'",
            )


def _check_same_place(plan: Plan, submission: Submission | None) -> None:
    """The same relative paths in another directory mean other files: not the same run."""
    locations = plan.spec.locations().values()
    relative = [location for location in locations if "://" not in location and not Path(location).is_absolute()]
    if submission is not None and relative and submission.cwd != os.getcwd():
        raise SpecError(
            f"run {plan.name} was submitted from {submission.cwd}; here, its path {relative[0]} means another file.",
            hint="Submit it from there, use absolute paths, or use --replace to move the run here.",
        )


def _state(directory: RunDirectory) -> SupervisorState:
    """What the supervisor said, corrected if it died without saying the last word."""
    state = directory.read_state() or SupervisorState()
    if state.state in _ENDED or directory.supervised():
        return state
    state = directory.read_state() or state  # it may have ended between the two looks
    if state.state in _ENDED:
        return state
    message = "its supervisor was killed or the machine was restarted; submit it again to resume"
    return replace(state, state=names.STATE_FAILED, reason=REASON_INTERRUPTED, message=message, pods=())


def _pods(state: SupervisorState) -> tuple[PodStatus, ...]:
    now = time.time()
    return tuple(
        PodStatus(
            name=pod.name,
            phase=pod.phase,
            reason=pod.reason,
            restarts=pod.restarts,
            node="this machine",
            age_seconds=None if pod.started_at is None else max(0.0, now - pod.started_at),
        )
        for pod in state.pods
    )


def _run_root(spec: Mapping[str, object], submission: Submission | None) -> str:
    """Where the run stores things, independent of the directory the question is asked in."""
    checkpoint = spec.get("checkpoint")
    path = str(checkpoint.get("path", "")) if isinstance(checkpoint, Mapping) else ""
    root = f"{path.rstrip('/')}/{spec.get('name', '')}"
    if "://" in root or submission is None:
        return root
    return str(Path(submission.cwd) / Path(root).expanduser())
