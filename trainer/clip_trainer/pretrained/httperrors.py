"""Which typed error an HTTP status or a broken connection means; the hub says more in headers of its own."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from clip_trainer.pretrained.patience import TransientError
from clipctl.contract.errors import ClipError, MissingError, PermissionDeniedError, UnavailableError

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_NETWORK_HINT = "Check the network, the proxy (HTTPS_PROXY) and the service's status, then run it again."
# Of urllib3, by name: it is not imported before a connection is wanted.
_NOT_CONNECTED = frozenset({"NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError"})
_LONGEST_WAIT = 3600.0  # seconds; a server may ask for any


class NotInRepositoryError(MissingError):
    """The repository exists, the file does not: the next candidate may."""


class RangeRefusedError(UnavailableError):
    """The server does not have the bytes from which on a download was to be resumed."""


def of_status(status: int, headers: Mapping[str, str], url: str) -> ClipError:
    """The error for a status of 400 or more."""
    code, shown = headers.get("X-Error-Code", ""), shown_url(url)
    said = f" ({headers['X-Error-Message'][:200]})" if headers.get("X-Error-Message") else ""
    if code == "RepoNotFound" and status in (401, 404):
        return _refused_repository(shown, status, said)
    if code == "GatedRepo" or (status in (401, 403) and "gated" in said.lower()):
        return PermissionDeniedError(
            f"{shown}: access to this repository has to be granted{said}.",
            hint="Accept its conditions on the hub's page of the model, then set HF_TOKEN to a token of that account.",
        )
    if status in (401, 403, 407):
        return PermissionDeniedError(
            f"{shown}: the server refuses access (status {status}){said}.",
            hint="Set HF_TOKEN to a token that may read it, and check that it has not expired.",
        )
    if code == "RevisionNotFound":
        return MissingError(f"{shown}: the repository has no such revision{said}.", hint="Check the part after `@`.")
    if status in (404, 410):
        return NotInRepositoryError(f"{shown} does not exist.", hint="Check the names of repository and file.")
    if status == 416:
        return RangeRefusedError(f"{shown}: the server does not have that range of bytes.")
    if status in _TRANSIENT:
        error = TransientError(f"{shown}: the server answered with status {status}{said}.", hint=_NETWORK_HINT)
        error.retry_after = _retry_after(headers.get("Retry-After"))
        return error
    return UnavailableError(f"{shown}: the server answered with status {status}{said}.", hint=_NETWORK_HINT)


def of_connection(error: BaseException, url: str) -> ClipError:
    """The error for a connection that could not be made, broke or stalled."""
    reason = _reason(error)
    if "CERTIFICATE" in reason.upper():
        return UnavailableError(
            f"{shown_url(url)}: the server's certificate is not trusted ({reason}).",
            hint="Set SSL_CERT_FILE to the certificates of your proxy or mirror.",
        )
    found = TransientError(f"{shown_url(url)} cannot be read ({reason}).", hint=_NETWORK_HINT)
    found.unreachable = type(error).__name__ in _NOT_CONNECTED
    return found


def of_server(problem: str) -> UnavailableError:
    """The error for an answer that makes no sense."""
    return UnavailableError(f"{problem}.", hint="The server is at fault; try another address or a mirror.")


def shown_url(url: str) -> str:
    """An address without its query, where storage services put signatures, and without credentials."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _refused_repository(shown: str, status: int, said: str) -> ClipError:
    # The hub answers 401 for names that do not exist, in order not to tell which private ones do.
    if status == 401:
        return PermissionDeniedError(
            f"{shown}: the repository does not exist, or is private{said}.",
            hint="Check the name; for a private or gated one set HF_TOKEN to a token that may read it.",
        )
    return MissingError(f"{shown}: there is no such repository{said}.", hint="Check the name after `hf-hub:`.")


def _retry_after(value: str | None) -> float:
    """Seconds of a `Retry-After` header, which holds a number or a date."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(seconds, _LONGEST_WAIT) if seconds > 0 else 0.0


def _reason(error: BaseException) -> str:
    """The innermost message: urllib3 wraps what happened and puts objects in front."""
    inner = getattr(error, "reason", None) or error.__cause__ or error
    text = str(inner) or str(error)
    return f"{type(inner).__name__}: {' '.join(text.split())[:160]}"
