"""Exit codes and errors that the CLI, the operator and the trainer share.

Every failure a user can cause or mend is a `ClipError`: one sentence that says what is wrong, one that says what to
do about it, and the exit code a script can act on. Programs print it as one paragraph, never as a traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of `clipctl`, the trainer and the operator (values follow sysexits.h where it has one)."""

    OK = 0
    USAGE = 64  # the command line or run.yaml is wrong
    CORRUPT = 65  # data or a checkpoint does not match its digest
    MISSING = 66  # an input does not exist
    UNAVAILABLE = 69  # a service did not answer within its budget
    INTERNAL = 70  # a bug in clipctl
    CANNOT_CREATE = 73  # an output cannot be written (disk full, read-only)
    TRY_AGAIN = 75  # preempted or lost a peer; state is safe, run it again
    PROTOCOL = 76  # peers speak different versions
    PERMISSION = 77  # credentials or RBAC refuse
    CLUSTER_CONFIG = 78  # the cluster lacks something (CRD, operator)
    HUNG = 79  # the watchdog killed a rank that made no progress


PERMANENT_CODES = frozenset(
    {
        ExitCode.USAGE,
        ExitCode.CORRUPT,
        ExitCode.MISSING,
        ExitCode.PROTOCOL,
        ExitCode.PERMISSION,
        ExitCode.CLUSTER_CONFIG,
    }
)
"""Codes that running the same thing again cannot mend: neither torchrun nor the operator retries them."""


class ClipError(Exception):
    """A failure with a remedy.

    Args:
        problem: what is wrong, one sentence, naming the thing (file, field, object).
        hint: what the user can do about it; empty if nothing sensible can be said.
        code: the exit status for it; each subclass has its own default.
    """

    default_code = ExitCode.INTERNAL

    def __init__(self, problem: str, *, hint: str = "", code: ExitCode | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.code = self.default_code if code is None else code

    def __str__(self) -> str:
        return f"{self.problem} {self.hint}".strip()


class SpecError(ClipError):
    """run.yaml or the command line is wrong."""

    default_code = ExitCode.USAGE


class CorruptError(ClipError):
    """Bytes do not match the digest, size or format that was promised."""

    default_code = ExitCode.CORRUPT


class MissingError(ClipError):
    """An input does not exist."""

    default_code = ExitCode.MISSING


class UnavailableError(ClipError):
    """A service did not answer within its retry budget."""

    default_code = ExitCode.UNAVAILABLE


class InternalError(ClipError):
    """A bug of ours, reported with enough context to file it."""

    default_code = ExitCode.INTERNAL


class CannotCreateError(ClipError):
    """An output cannot be written."""

    default_code = ExitCode.CANNOT_CREATE


class TryAgainError(ClipError):
    """Nothing is lost; the same command succeeds when run again."""

    default_code = ExitCode.TRY_AGAIN


class PermissionDeniedError(ClipError):
    """Credentials or access rules refuse the request."""

    default_code = ExitCode.PERMISSION


class ClusterConfigError(ClipError):
    """The cluster lacks something that clipctl needs."""

    default_code = ExitCode.CLUSTER_CONFIG


def error_from_code(problem: str, hint: str, code: int) -> ClipError:
    """The error a peer process reported, as the class that stands for its exit code."""
    for cls in ClipError.__subclasses__():
        if cls.default_code == code:
            return cls(problem, hint=hint)
    return ClipError(problem, hint=hint, code=ExitCode(code))
