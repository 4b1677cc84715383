"""Which typed error a broken connection or an HTTP status means; S3 says more in an XML document."""

from __future__ import annotations

import email.utils
import re
import ssl
import time
from http.client import HTTPMessage
from urllib.parse import urlsplit

from clip_trainer.data.storage.retry import BusyError, LastingError
from clipctl.contract.errors import (
    CannotCreateError,
    ClipError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)

_S3 = "s3://"
_S3_HINTS = {
    "network": "Check AWS_ENDPOINT_URL_S3, the network and the service's status, then run it again.",
    "denied": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile or role) that may read it; "
    "for a public bucket set FSSPEC_S3_ANON=true.",
    "missing": "Check the bucket, the path and AWS_ENDPOINT_URL_S3.",
}
_WEB_HINTS = {
    "network": "Check the address, the network (HTTPS_PROXY) and the server's status, then run it again.",
    "denied": "Check the user and password in the address, or whether it has expired.",
    "missing": "Check the address.",
}
_EXPIRED_HINT = "Renew AWS_SESSION_TOKEN and its keys, or use a role or profile whose credentials renew themselves."

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524})
_TRANSIENT_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"})
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_FULL_CODES = frozenset({"EntityTooLarge", "QuotaExceeded", "InsufficientStorage"})
_REGION_CODES = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_ELEMENT = re.compile(rb"<(Code|Region)>([^<]{1,200})</")


class ExpiredCredentialsError(PermissionDeniedError):
    """The store knows the credentials and says that their time is over."""


def of_connection(error: BaseException, what: str) -> UnavailableError:
    """The error for a connection that could not be made, broke or stalled."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return LastingError(
            f"{what}: the server's certificate is not trusted ({error.verify_message}).",
            hint="Set AWS_CA_BUNDLE or SSL_CERT_FILE to the certificates of your store or proxy.",
        )
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return UnavailableError(f"{what} cannot be reached ({reason}).", hint=_hint("network", what))


def of_status(status: int, headers: HTTPMessage, document: bytes, what: str) -> ClipError:
    """The error for a status other than success.

    Args:
        status: of the answer.
        headers: of the answer.
        document: the body, or its beginning.
        what: names the object or directory.
    """
    said = {name.decode(): value.decode(errors="replace") for name, value in _ELEMENT.findall(document)}
    code = said.get("Code", "")
    reason = f"status {status}, {code}" if code else f"status {status}"
    if code in _EXPIRED_CODES:
        return ExpiredCredentialsError(f"{what}: the credentials have expired ({code}).", hint=_EXPIRED_HINT)
    if status in (301, 302, 303, 307, 308) or code in _REGION_CODES:
        return _elsewhere(headers.get("x-amz-bucket-region") or said.get("Region"), reason, what)
    if status == 412:
        return changed(what)
    if status == 416:
        return too_short(what)
    if status in _TRANSIENT_STATUSES or code in _TRANSIENT_CODES:
        busy = BusyError(f"{what}: the server answered with {reason}.", hint=_hint("network", what))
        busy.retry_after = seconds_to_wait(headers.get("Retry-After"))
        return busy
    if status in (404, 410):
        return MissingError(f"{what} does not exist.", hint=_hint("missing", what))
    if status in (413, 507) or code in _FULL_CODES:
        return CannotCreateError(f"{what} cannot be stored ({reason}).", hint="Check the quota of the bucket.")
    if status in (401, 403, 407, 451):
        return PermissionDeniedError(f"{what}: access denied ({reason}).", hint=_hint("denied", what))
    return SpecError(f"{what}: the server refuses the request ({reason}).", hint=_hint("missing", what))


def changed(what: str) -> CorruptError:
    """The error for an object that is no longer the one whose etag is known."""
    return CorruptError(
        f"{what} changed while it was being read: its etag differs from the one that is known.",
        hint="Restore it. If the change is intended, index it again; a running run must keep its data.",
    )


def too_short(what: str) -> CorruptError:
    """The error for an object that ends before the bytes that are wanted."""
    return CorruptError(f"{what} is shorter than the index says.", hint="Fetch or pack the shard again.")


def nonsense(what: str, problem: str) -> UnavailableError:
    """The error for an answer that cannot be what was asked for; a proxy on the way may be at fault for a moment."""
    return UnavailableError(f"{what}: {problem}.", hint=_hint("network", what))


def shown_url(url: str) -> str:
    """An address without its query, where storage services put signatures, and without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def seconds_to_wait(value: str | None) -> float:
    """Seconds of a `Retry-After` header, which holds a number or a date; 0 if it makes no sense."""
    try:
        seconds = float(value or 0)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value or "").timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _hint(topic: str, what: str) -> str:
    """What a user can do, in the words of the service."""
    return (_S3_HINTS if what.startswith(_S3) else _WEB_HINTS)[topic]


def _elsewhere(region: str | None, reason: str, what: str) -> SpecError:
    where = f"in the region {region}" if region else "in another region or at another address"
    hint = f"Set AWS_REGION={region}." if region else "Set AWS_REGION to the bucket's region."
    return SpecError(f"{what} lies {where} ({reason}).", hint=hint)
