"""Object storage as the three programs need it: a handful of operations with exact promises.

The promises that correctness rests on are `create` (succeeds for exactly one caller) and `replace` (succeeds only if
nobody changed the object in between); everything else is plain reading and writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from clipctl.contract.errors import SpecError

Part: TypeAlias = bytes | memoryview


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object: its key relative to the store root, and its size in bytes."""

    key: str
    size: int


@dataclass(frozen=True)
class Unfinished:
    """What an interrupted writer left: a multipart upload, or a staged file.

    Attributes:
        key: of the object it was to become, or of its directory (ending in `/`) where only that is known.
        token: tells the store which one.
        begun_at: seconds since the epoch.
    """

    key: str
    token: str
    begun_at: float


class ObjectStore(Protocol):
    """A flat namespace of immutable-by-convention objects below one root.

    Raises (all methods): `PermissionDeniedError` if credentials refuse, `UnavailableError` if the service does not
    answer within its retry budget, `CannotCreateError` if a write cannot be stored (disk full, read-only).
    """

    @property
    def root(self) -> str:
        """URL or path of the root, without credentials."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object. Raises `MissingError` if there is none."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start` on; nothing is asked for if `length` is 0.

        Raises:
            MissingError: there is no such object.
            CorruptError: the object ends before that.
        """
        ...

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """The object with an opaque version for `replace`, or None if there is none."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Store `data`, replacing what was there; a reader sees the old or the new bytes, never a mixture."""
        ...

    def write_parts(self, key: str, parts: Iterable[Part], size: int) -> None:
        """Like `write`, for a large object that arrives in pieces of any length, `size` bytes in all.

        Pieces are taken one after the other as they are needed, and a piece may be overwritten by the caller once the
        next one was taken: what is not sent yet was copied. Nothing is stored if the pieces end early or fail.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Store `data` only if `key` does not exist; False if it does. Exactly one of several callers gets True."""
        ...

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """Store `data` only if the object still has `version`; False if somebody was faster."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects whose key starts with `prefix`, sorted by key; never served from a cache."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error if it is already gone."""
        ...

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        """What interrupted writers left below `prefix`, oldest first; those of living writers are among it."""
        ...

    def discard(self, unfinished: Unfinished) -> None:
        """Give its storage back; no error if it is already gone."""
        ...


def open_store(url: str) -> ObjectStore:
    """Open the store at `url`: `s3://bucket/prefix`, `file:///path` or a local path.

    S3 takes its endpoint and credentials from the environment (`AWS_ENDPOINT_URL`, the default credential chain).

    Raises:
        SpecError: for a scheme that cannot hold checkpoints.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        from clipctl.contract.store_local import LocalStore

        return LocalStore(url)
    if scheme == "file":
        from clipctl.contract.store_local import LocalStore

        return LocalStore(rest)
    if scheme == "s3":
        from clipctl.contract.store_s3 import S3Store

        return S3Store(rest)
    raise SpecError(
        f"cannot store a run at {scheme}://: only s3:// URLs, file:// URLs and local paths are supported.",
        hint="Set checkpoint.path to one of these.",
    )
