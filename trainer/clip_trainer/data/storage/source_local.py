"""Shards in a local (or mounted) directory."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from clip_trainer.data.storage.descriptors import OpenFiles
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters, checked_name
from clipctl.contract.errors import (
    CannotCreateError,
    ClipError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    UnavailableError,
)
from clipctl.contract.failpoints import failpoint

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class LocalSource:
    """Files below a directory; implements `source.Source`."""

    remote = False

    def __init__(self, base: str) -> None:
        self.base = base
        self.counters = SourceCounters()
        self._root = Path(base)
        self._files = OpenFiles(self._path)

    def info(self, name: str) -> ObjectInfo:
        """Size of a file, and when it was last changed."""
        path = self._path(name)
        try:
            found = path.stat()
            return ObjectInfo(name, found.st_size, None, found.st_mtime_ns)
        except OSError as error:
            raise _translated(error, path) from error

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """`info` of the files that exist."""
        found: dict[str, ObjectInfo] = {}
        for name in names:
            try:
                found[name] = self.info(name)
            except MissingError:
                continue
        return found

    def list_shards(self) -> tuple[str, ...]:
        """The `.tar` files directly in the directory."""
        try:
            return tuple(sorted(entry.name for entry in self._root.iterdir() if entry.name.endswith(".tar")))
        except OSError as error:
            raise _translated(error, self._root) from error

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """A range of a file; the page cache is the cache. Files have no etag to compare."""
        try:
            failpoint("data.read_file")
            data = _pread(self._files.descriptor(name), offset, length)
        except OSError as error:
            raise _translated(error, self._path(name)) from error
        self.counters.add(requests=1, bytes_read=len(data))
        if len(data) < length:
            raise CorruptError(
                f"{self._path(name)} ends at byte {offset + len(data)}, {length - len(data)} bytes too early.",
                hint="The shard is truncated: fetch or pack it again.",
            )
        return data

    def load(self, name: str) -> bytes:
        """A whole file."""
        path = self._path(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise _translated(error, path) from error

    def save(self, name: str, data: bytes) -> None:
        """Write beside the target, then rename over it."""
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp makes private files; shards are shared between users
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unwritable(error, path) from error

    def _path(self, name: str) -> Path:
        return self._root / checked_name(name)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


def _translated(error: OSError, path: Path) -> ClipError:
    """The typed error for a failed read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return MissingError(f"{path} does not exist.", hint="Check data.train / data.val, and that it is mounted.")
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"{path} may not be read.", hint="Check the owner and mode of the file.")
    return UnavailableError(f"{path} cannot be read: {error.strerror}.", hint="Check the disk or mount.")


def _unwritable(error: OSError, path: Path) -> ClipError:
    """The typed error for a failed write."""
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"{path} may not be written.", hint="Check the owner and mode of the directory.")
    full = "Free some space or choose another output." if error.errno in _FULL else "Check the disk or mount."
    return CannotCreateError(f"{path} cannot be written: {error.strerror}.", hint=full)
