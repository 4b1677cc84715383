"""The registry of local runs: one directory per run, and the small files in it.

```
$CLIPCTL_HOME/runs/<name>/
  config.json        what the trainer reads; survives, so that re-submitting can tell what changed
  submission.json    when and from which directory it was submitted (relative paths are relative to that)
  supervisor.json    what the supervisor says: the run's state; written by it alone
  lock               held by the supervisor as long as it lives
  logs/pod-<i>.log, logs/coordinator.log, logs/supervisor.log
  pods/<i>.json      termination message of launcher i
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from clipctl.contract import names

REASON_INTERRUPTED = "Interrupted"


def registry(environment: Mapping[str, str]) -> Path:
    """Directory of all local runs."""
    home = environment.get(names.ENV_HOME)
    if not home:
        state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        home = str(Path(state) / "clipctl")
    return Path(home).expanduser().absolute() / "runs"


@dataclass(frozen=True)
class PodState:
    """One launcher with its workers, the local counterpart of a worker pod."""

    name: str
    phase: str = "Pending"
    reason: str = ""
    restarts: int = 0
    pid: int | None = None
    started_at: float | None = None


@dataclass(frozen=True)
class SupervisorState:
    """Content of supervisor.json. Times are seconds since the epoch."""

    pid: int = 0
    state: str = names.STATE_PENDING
    reason: str = ""
    message: str = ""
    attempt: int = 1
    exit_code: int | None = None
    causes: tuple[str, ...] = ()
    finished_at: float | None = None
    port: int | None = None
    pods: tuple[PodState, ...] = field(default=())

    def to_json(self) -> str:
        """As stored."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> SupervisorState:
        """Read what `to_json` wrote; fields of another version of clipctl are ignored."""
        raw = json.loads(text)
        known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        pods = tuple(_pod(item) for item in known.pop("pods", ()))
        return cls(**{**known, "causes": tuple(known.get("causes", ())), "pods": pods})


def _pod(raw: Mapping[str, Any]) -> PodState:
    return PodState(**{f.name: raw[f.name] for f in fields(PodState) if f.name in raw})


@dataclass(frozen=True)
class Submission:
    """Content of submission.json. `attempt` is the number of the first attempt of this submission."""

    cwd: str
    created_at: float
    submitted_at: float
    attempt: int = 1


class RunDirectory:
    """The files of one run. Readers and writers may be different processes; every file is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The trainer's CONFIG.json."""
        return self.path / "config.json"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor itself had to say, empty in good times."""
        return self.path / "logs" / "supervisor.log"

    def pod_log(self, index: int) -> Path:
        """Everything launcher `index` and its workers have printed."""
        return self.path / "logs" / f"pod-{index}.log"

    def pod_logs(self) -> list[Path]:
        """The existing pod logs in the order of their numbers."""
        return sorted(self.path.glob("logs/pod-*.log"), key=lambda file: int(file.stem.partition("-")[2]))

    def termination_file(self, index: int) -> Path:
        """Why launcher `index` ended, as it says."""
        return self.path / "pods" / f"{index}.json"

    def prepare(self) -> None:
        """Create the directories; others on this machine may not read them."""
        for directory in (self.path, self.path / "logs", self.path / "pods"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read_config(self) -> dict[str, Any] | None:
        """What was submitted last; None if there is nothing readable."""
        found = _read_json(self.config_file)
        return found if isinstance(found, dict) else None

    def read_submission(self) -> Submission | None:
        """When and where it was submitted; None if there is nothing readable."""
        found = _read_json(self.path / "submission.json")
        try:
            return Submission(**found)
        except TypeError:
            return None

    def read_state(self) -> SupervisorState | None:
        """What the supervisor said last; None if no supervisor ever came so far."""
        try:
            return SupervisorState.from_json((self.path / "supervisor.json").read_text())
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Store what is submitted."""
        _write(self.config_file, json.dumps(config, indent=1, sort_keys=True))

    def write_submission(self, submission: Submission) -> None:
        """Store when and where it was submitted."""
        _write(self.path / "submission.json", json.dumps(asdict(submission)))

    def write_state(self, state: SupervisorState) -> None:
        """Store the state of the run (supervisor only)."""
        _write(self.path / "supervisor.json", state.to_json())

    def forget_state(self) -> None:
        """Remove what an earlier supervisor said, so that its pid is never taken for the next one's."""
        (self.path / "supervisor.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, kind: int = fcntl.LOCK_EX) -> Iterator[bool]:
        """Hold the supervisor's lock; yields False if another process holds it.

        The kernel gives it back when its holder dies in whatever way, so it tells better than a pid who is alive.
        Who only looks takes `LOCK_SH`: two who look at the same moment must not take each other for a supervisor.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def supervised(self) -> bool:
        """Whether a supervisor is alive."""
        if not (self.path / "lock").exists():
            return False
        with self.locked(fcntl.LOCK_SH) as free:
            return not free


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _write(file: Path, text: str) -> None:
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.write_text(text)
    os.replace(staged, file)
