"""Which typed error an exception of a storage client means.

Clients wrap each other (s3fs over aiobotocore over aiohttp), so the whole chain of causes is looked at, and classes
are told apart by name: importing the clients only to name their exceptions would make every command slow.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from clipctl.contract.errors import (
    CannotCreateError,
    ClipError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)

_CREDENTIALS_HINT = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile or role) that may read it; "
    "for a public bucket set FSSPEC_S3_ANON=true."
)
_MISSING_HINT = "Check the bucket, the path and AWS_ENDPOINT_URL_S3."
_UNAVAILABLE_HINT = "Check the address (AWS_ENDPOINT_URL_S3), the network and the service's status, then run it again."

_DENIED_NAMES = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_DENIED_CODES = frozenset(
    {
        *("401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "Forbidden"),
        *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "TokenRefreshRequired", "AuthorizationHeaderMalformed"),
    }
)
_MISSING_CODES = frozenset({"404", "NoSuchBucket", "NoSuchKey", "410"})
_RANGE_CODES = frozenset({"416", "InvalidRange"})
_MOVED_CODES = frozenset({"301", "307", "PermanentRedirect", "IllegalLocationConstraintException"})


def typed_error(error: BaseException, what: str) -> ClipError:
    """The typed error for a client's exception; `what` names the object or directory.

    Anything that is not understood counts as an unavailable service, which is retried within bounds.
    """
    chain = list(_chain(error))
    known = next((link for link in chain if isinstance(link, ClipError)), None)
    if known is not None:
        return known
    codes = {code for link in chain for code in _codes(link)}
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    reason = _reason(error)
    if codes & _RANGE_CODES:
        return CorruptError(f"{what} is shorter than the index says.", hint="Fetch or pack the shard again.")
    if "PermissionError" in names or names & _DENIED_NAMES or codes & _DENIED_CODES:
        return PermissionDeniedError(f"{what}: access denied ({reason}).", hint=_CREDENTIALS_HINT)
    if "FileNotFoundError" in names or codes & _MISSING_CODES:
        return MissingError(f"{what} does not exist.", hint=_MISSING_HINT)
    if codes & _MOVED_CODES:
        return SpecError(f"{what} lies in another region ({reason}).", hint="Set AWS_REGION to the bucket's region.")
    if any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain):
        return CannotCreateError(f"{what} cannot be written: no space left.", hint="Free some space.")
    if "ImportError" in names:
        return SpecError(f"{what} needs a storage client that is not installed ({reason}).", hint="Install it.")
    return UnavailableError(f"{what} cannot be reached ({reason}).", hint=_UNAVAILABLE_HINT)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _codes(error: BaseException) -> Iterator[str]:
    """S3 error codes and HTTP statuses an exception carries."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        yield str(status)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code", ""))
        yield str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def _reason(error: BaseException) -> str:
    """One short line; clients put whole documents into their messages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
