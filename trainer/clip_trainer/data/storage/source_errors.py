"""Which typed error an exception of a storage client (gcsfs, adlfs, ...) means.

Clients wrap each other, so the whole chain of causes is looked at, and classes are told apart by name: importing the
clients only to name their exceptions would make every command slow.
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

_CREDENTIALS_HINT = "Give the storage client credentials that may read it, as its documentation says."
_MISSING_HINT = "Check the bucket and the path."
_UNAVAILABLE_HINT = "Check the address, the network and the service's status, then run it again."

_DENIED_NAMES = frozenset({"PermissionError", "DefaultCredentialsError", "ClientAuthenticationError", "RefreshError"})
_MISSING_NAMES = frozenset({"FileNotFoundError", "ResourceNotFoundError"})


def typed_error(error: BaseException, what: str) -> ClipError:
    """The typed error for a client's exception; `what` names the object or directory.

    Anything that is not understood counts as an unavailable service, which is retried within bounds.
    """
    chain = list(_chain(error))
    known = next((link for link in chain if isinstance(link, ClipError)), None)
    if known is not None:
        return known
    statuses = {status for link in chain for status in _statuses(link)}
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    reason = _reason(error)
    if 416 in statuses:
        return CorruptError(f"{what} is shorter than the index says.", hint="Fetch or pack the shard again.")
    if names & _DENIED_NAMES or statuses & {401, 403}:
        return PermissionDeniedError(f"{what}: access denied ({reason}).", hint=_CREDENTIALS_HINT)
    if names & _MISSING_NAMES or statuses & {404, 410}:
        return MissingError(f"{what} does not exist.", hint=_MISSING_HINT)
    if any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain):
        return CannotCreateError(f"{what} cannot be written: no space left.", hint="Free some space.")
    if "ImportError" in names:
        return SpecError(f"{what} needs a storage client that is not installed ({reason}).", hint="Install it.")
    if any(name.startswith("NotImplemented") for name in names):  # fsspec's answer to what a file system lacks
        return SpecError(f"{what}: this storage cannot do that ({reason}).", hint="Use another one.")
    return UnavailableError(f"{what} cannot be reached ({reason}).", hint=_UNAVAILABLE_HINT)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _statuses(error: BaseException) -> Iterator[int]:
    """HTTP statuses that an exception carries, by the names that clients give them."""
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            yield value


def _reason(error: BaseException) -> str:
    """One short line; clients put whole documents into their messages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
