"""What S3's errors mean: which are worth another attempt, and what to tell the user about the others."""

from __future__ import annotations

from clipctl.contract.errors import CannotCreateError, ClipError, MissingError, PermissionDeniedError, UnavailableError

REFUSED = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "403",
    }
)
ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "404"})
CONFLICT = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
NOT_IMPLEMENTED = frozenset({"NotImplemented", "501"})
BEYOND = frozenset({"InvalidRange", "416"})
_FULL = frozenset({"EntityTooLarge", "QuotaExceeded"})
_BUSY = frozenset(
    {
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "XAmzContentSHA256Mismatch",
        "BadDigest",
        "429",
        "500",
        "502",
        "503",
        "504",
    }
)


def error_code(error: BaseException | None) -> str:
    """The S3 error code behind an exception of botocore or of s3fs, which wraps the former in OSErrors."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed the next time: the service is busy, or the connection failed."""
    if isinstance(error, ClipError | PermissionError | FileNotFoundError | FileExistsError):
        return False
    code = error_code(error)
    return code in _BUSY if code else "Credentials" not in type(error).__name__


def is_absent(error: Exception) -> bool:
    """Whether the service says that there is no such object, or bucket."""
    return error_code(error) in ABSENT or isinstance(error, FileNotFoundError)


def is_conflict(error: Exception) -> bool:
    """Whether a condition did not hold."""
    return error_code(error) in CONFLICT or isinstance(error, FileExistsError)


def translated(error: Exception, where: str, attempts: int) -> ClipError:
    """What to tell the user.

    Args:
        error: as the client raised it.
        where: URL of the object.
        attempts: how often it was tried.
    """
    code = error_code(error)
    if is_absent(error):
        return MissingError(f"{where} does not exist.", hint="Check the bucket name and the prefix.")
    if code in REFUSED or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return PermissionDeniedError(
            f"S3 refuses access to {where} ({code or type(error).__name__}).",
            hint="Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), and the bucket policy.",
        )
    if code in _FULL:
        return CannotCreateError(f"S3 cannot store {where} ({code}).")
    return UnavailableError(
        f"S3 did not serve {where}: {code or type(error).__name__}.",
        hint=f"Check AWS_ENDPOINT_URL and that the service is reachable; it was tried up to {attempts} times.",
    )
