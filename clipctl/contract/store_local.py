"""`ObjectStore` on a file system: atomic by `link` and `rename`, durable by `fsync` of file and directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CannotCreateError, ClipError, CorruptError, MissingError, PermissionDeniedError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.parts import exactly
from clipctl.contract.store import ObjectInfo, Part, Unfinished

_TEMPORARY = ".tmp-"
_DIRECTORY_ATTEMPTS = 10
_Made = TypeVar("_Made")
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
}


class LocalStore:
    """Objects are files below `root`; directories are made as needed."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).expanduser().absolute()

    @property
    def root(self) -> str:
        """Absolute path of the root."""
        return str(self._root)

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        with self._translated(key):
            failpoint("store.local.read")
            return self._path(key).read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        if length == 0:
            return b""
        with self._translated(key), self._path(key).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise CorruptError(f"{self._path(key)} ends before byte {start + length}.")
        return data

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """See `ObjectStore.read_version`; the version is the digest of the content."""
        try:
            data = self.read(key)
        except MissingError:
            return None
        return data, sha256_hex(data)

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        self.write_parts(key, (data,), len(data))

    def write_parts(self, key: str, parts: Iterable[Part], size: int) -> None:
        """See `ObjectStore.write_parts`; the pieces go into the staged file one after the other."""
        with self._translated(key), self._staged(key, exactly(parts, size)) as staged:
            failpoint("store.local.staged")
            os.replace(staged, self._path(key))
            _sync_directory(self._path(key).parent)
            failpoint("store.local.written")

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`; `link` fails atomically if the name exists."""
        with self._translated(key), self._staged(key, (data,)) as staged:
            failpoint("store.local.create")
            try:
                os.link(staged, self._path(key))
            except FileExistsError:
                return False
            _sync_directory(self._path(key).parent)
            failpoint("store.local.created")
            return True

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """See `ObjectStore.replace`; writers of one key take turns by a lock file beside it."""
        path = self._path(key)
        with self._translated(key), _locked(path.with_name(f".{path.name}.lock")):
            current = self.read_version(key)
            failpoint("store.local.replace")
            if current is None or current[1] != version:
                return False
            self.write(key, data)
            return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        with self._translated(prefix):
            failpoint("store.local.list")
            start = self._root / prefix.rpartition("/")[0]
            keyed = ((path.relative_to(self._root).as_posix(), path) for path in _files_below(start))
            sizes = ((key, _size(path)) for key, path in keyed if key.startswith(prefix))
            return sorted((ObjectInfo(key, size) for key, size in sizes if size is not None), key=lambda o: o.key)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`; empty directories above the object go with it."""
        path = self._path(key)
        with self._translated(key):
            failpoint("store.local.delete")
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self._root:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        """See `ObjectStore.unfinished`: staged files, whose key is that of their directory."""
        found = []
        for folder, _, names in os.walk(self._root):  # folders that vanish meanwhile are passed over
            key = f"{Path(folder).relative_to(self._root).as_posix()}/"
            for name in names if key.startswith(prefix) else ():
                with contextlib.suppress(FileNotFoundError):
                    if name.startswith(_TEMPORARY):
                        found.append(Unfinished(key, f"{key}{name}", Path(folder, name).stat().st_mtime))
        return sorted(found, key=lambda item: item.begun_at)

    def discard(self, unfinished: Unfinished) -> None:
        """See `ObjectStore.discard`."""
        with self._translated(unfinished.token):
            self._path(unfinished.token).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = self._root / key
        if ".." in path.parts or key.startswith("/") or "\0" in key:
            raise CannotCreateError(f"refusing the key {key!r}: it leaves the store root.")
        return path

    @contextlib.contextmanager
    def _staged(self, key: str, parts: Iterable[Part]) -> Iterator[str]:
        """A complete, synced temporary file in the target's directory; removed if it is still there at the end."""
        descriptor, name = _made_in(self._path(key).parent, lambda d: tempfile.mkstemp(prefix=_TEMPORARY, dir=d))
        try:
            with os.fdopen(descriptor, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            yield name
        finally:
            Path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translate(error, key) from error

    def _translate(self, error: OSError, key: str) -> ClipError:
        where = str(self._root / key)
        if isinstance(error, FileNotFoundError):
            return MissingError(f"{where} does not exist.")
        if isinstance(error, PermissionError):
            return PermissionDeniedError(
                f"no permission for {where}.", hint="Check the owner and mode of the directory."
            )
        why = _FULL.get(error.errno or 0, error.strerror or str(error))
        return CannotCreateError(f"cannot write {where}: {why}.", hint="Nothing that was stored before is lost.")


def _files_below(start: Path) -> Iterator[Path]:
    """All objects in `start`, however deep; none if it does not exist.

    `Path.rglob` would leave out what it may not read, and a listing without the commits means "nothing was ever
    committed".
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, names in os.walk(start, onerror=refuse):
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _size(path: Path) -> int | None:
    """Size in bytes; None if the file was deleted since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _made_in(directory: Path, make: Callable[[Path], _Made]) -> _Made:
    """What `make` puts into `directory`, which is made first.

    `delete` removes directories that became empty, also one that was made a moment ago and is still empty.
    """
    for _ in range(_DIRECTORY_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            directory.mkdir(parents=True, exist_ok=True)
            return make(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return make(directory)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _made_in(path.parent, lambda _: path.open("a")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
