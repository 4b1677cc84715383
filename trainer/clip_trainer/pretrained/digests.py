"""What a fetched file must be, and whether it is."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from clipctl.contract.errors import CorruptError

_BLOCK = 1 << 20
_HEX = re.compile(r"[0-9a-f]{8,64}")
_SHA256_LENGTH = 64
_GIT_LENGTH = 40


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it is read; None for what is not."""

    sha256: str | None = None  # all 64 hex digits or the first few, at least 8
    git_blob: str | None = None  # name of the file as an object of git: 40 hex digits
    size: int | None = None  # bytes

    @property
    def verifiable(self) -> bool:
        """Whether a digest is known."""
        return self.sha256 is not None or self.git_blob is not None


def expected_from_etag(etag: str | None, size: int | None = None) -> Expected:
    """What the hub's ETag says: sha256 for large files, the name of the git object for small ones."""
    if etag and _HEX.fullmatch(etag):
        if len(etag) == _SHA256_LENGTH:
            return Expected(sha256=etag, size=size)
        if len(etag) == _GIT_LENGTH:
            return Expected(git_blob=etag, size=size)
    return Expected(size=size)


def digest_in_url(url: str) -> str | None:
    """The sha256, or its first 8 digits, that OpenAI and OpenCLIP put into the addresses of their files."""
    *_, folder, name = ["", *url.split("?")[0].split("/")]
    if "openaipublic" in url and len(folder) == _SHA256_LENGTH and _HEX.fullmatch(folder):
        return folder
    tail = name.rpartition(".")[0].rpartition("-")[2]
    return tail if "mlfoundations" in url and _HEX.fullmatch(tail) else None


def sha256_of(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    return _hash(path, hashlib.sha256())


def check(path: Path, expected: Expected, name: str) -> str:
    """Compare a file with what it must be.

    Args:
        path: the file.
        expected: what it must be.
        name: what to call it in an error.

    Returns:
        Its sha256.

    Raises:
        CorruptError: it is something else.
    """
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        raise CorruptError(f"{name} has {size} bytes instead of {expected.size}.")
    found = sha256_of(path)
    if expected.sha256 is not None and not found.startswith(expected.sha256):
        raise CorruptError(f"{name} has the sha256 {found[: len(expected.sha256)]} instead of {expected.sha256}.")
    if expected.git_blob is not None:
        blob = _hash(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
        if blob != expected.git_blob:
            raise CorruptError(f"{name} is the git object {blob} instead of {expected.git_blob}.")
    return found


def _hash(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
