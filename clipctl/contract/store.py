"""Object storage as the three programs need it: a handful of operations with exact promises.

The promises that correctness rests on are `create` (succeeds for exactly one caller) and `replace` (succeeds only if
nobody changed the object in between); everything else is plain reading and writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from clipctl.contract.errors import SpecError


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object: its key relative to the store root, and its size in bytes."""

    key: str
    size: int


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

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """The object with an opaque version for `replace`, or None if there is none."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Store `data`, replacing what was there; a reader sees the old or the new bytes, never a mixture."""
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
