"""Errors of the fake API server, worded as a real one words them."""

from __future__ import annotations

from typing import Any


class FakeApiError(Exception):
    """An answer that is not 2xx.

    Args:
        code: HTTP status.
        reason: the machine-readable reason of the Status object.
        message: for people.
        retry_after: seconds for the Retry-After header.
    """

    def __init__(self, code: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after

    def status(self) -> dict[str, Any]:
        """The Status object of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


def missing(plural: str, name: str) -> FakeApiError:
    """404."""
    return FakeApiError(404, "NotFound", f'{plural} "{name}" not found')


def exists(plural: str, name: str) -> FakeApiError:
    """409 on create."""
    return FakeApiError(409, "AlreadyExists", f'{plural} "{name}" already exists')


def conflict(plural: str, name: str, why: str) -> FakeApiError:
    """409 on write."""
    return FakeApiError(409, "Conflict", f'Operation cannot be fulfilled on {plural} "{name}": {why}')


def gone(version: int) -> FakeApiError:
    """410."""
    return FakeApiError(410, "Expired", f"too old resource version: {version}")


def forbidden(verb: str, plural: str) -> FakeApiError:
    """403."""
    return FakeApiError(403, "Forbidden", f'{plural} is forbidden: User "test" cannot {verb} resource "{plural}"')
