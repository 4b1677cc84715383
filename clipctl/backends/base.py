"""What `clipctl` needs from a place where runs can live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from clipctl.contract.spec import RunSpec

BackendName = Literal["kubernetes", "local"]
Action = Literal["created", "unchanged", "resumed", "replaced"]


@dataclass(frozen=True)
class Plan:
    """What was asked for: a validated spec and the file it came from (for messages only)."""

    spec: RunSpec
    source: str

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.spec.name

    @property
    def digest(self) -> str:
        """Digest of the resolved spec."""
        return self.spec.digest()

    def config(self) -> dict[str, Any]:
        """Content of the trainer's CONFIG.json."""
        return {"spec": self.spec.resolved(), "spec_digest": self.digest}


@dataclass(frozen=True)
class SubmitOptions:
    """How to submit: `replace` allows a changed spec under a name that exists."""

    replace: bool = False


@dataclass(frozen=True)
class SubmitResult:
    """What submitting did, and where the run now is (namespace/job, or a directory)."""

    name: str
    action: Action
    backend: BackendName
    location: str


@dataclass(frozen=True)
class Progress:
    """The trainer's own account, `<run-root>/status.json`; a field is None until the trainer knows it."""

    step: int | None = None
    total_steps: int | None = None
    samples_consumed: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    world_size: int | None = None
    incarnation: int | None = None
    attempt: int | None = None
    updated_at: float | None = None
    state: str | None = None
    goodput: float | None = None
    recoveries: dict[str, float] | None = None
    """Changes of the worker group that training went on from, by rung of the recovery ladder."""
    lost_seconds: dict[str, float] | None = None
    """What they have cost, by rung."""

    @classmethod
    def from_json(cls, data: bytes) -> Progress:
        """Read what can be read: a newer trainer may add fields, an interrupted one may leave some out."""
        try:
            raw = json.loads(data)
        except ValueError:
            return cls()
        if not isinstance(raw, dict):
            return cls()
        return cls(**{f.name: _typed(raw.get(f.name), str(f.type)) for f in fields(cls)})


def _typed(value: Any, annotation: str) -> Any:
    if annotation.startswith("str"):
        return value if isinstance(value, str) else None
    if annotation.startswith("dict"):
        if not isinstance(value, dict):
            return None
        return {str(key): number for key, number in value.items() if isinstance(number, (int, float))}
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if annotation.startswith("int"):
        return value if isinstance(value, int) else None
    return float(value)


@dataclass(frozen=True)
class PodStatus:
    """One worker: a pod, or a process of a local run."""

    name: str
    phase: str
    reason: str = ""
    restarts: int = 0
    node: str = ""
    age_seconds: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """What a backend knows about one run; what the trainer knows is in the run's storage at `run_root`."""

    name: str
    backend: BackendName
    state: str
    location: str
    run_root: str
    attempt: int = 1
    reason: str = ""
    message: str = ""
    spec_digest: str = ""
    created_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    resume_from: str | None = None
    rejected: tuple[str, ...] = ()
    attempt_causes: tuple[str, ...] = ()
    pods: tuple[PodStatus, ...] = ()
    storage_env: dict[str, str] = field(default_factory=dict)
    """Plain environment variables of the run that its storage needs, such as `AWS_ENDPOINT_URL`."""


@dataclass(frozen=True)
class RunSummary:
    """One line of `clipctl list`."""

    name: str
    backend: BackendName
    state: str
    attempt: int
    created_at: float | None
    location: str


class Backend(Protocol):
    """A place where runs live. All methods raise `ClipError`; none of them prints."""

    name: BackendName

    def submit(self, plan: Plan, options: SubmitOptions) -> SubmitResult:
        """Start the run, or resume it, and return at once.

        Raises:
            SpecError: a run of this name exists with another spec and `options.replace` is false.
        """
        ...

    def status(self, name: str) -> RunStatus:
        """State of one run. Raises `MissingError` if there is none of this name."""
        ...

    def list(self) -> list[RunSummary]:
        """All runs, newest first."""
        ...

    def logs(self, name: str, follow: bool, rank: int | None) -> Iterator[str]:
        """Log lines without their newline; with `follow`, until the run has ended."""
        ...

    def stop(self, name: str) -> None:
        """Let the run write a checkpoint and stop it; submitting the same file again resumes it."""
        ...

    def delete(self, name: str) -> None:
        """Stop the run and forget it. What it stored stays."""
        ...
