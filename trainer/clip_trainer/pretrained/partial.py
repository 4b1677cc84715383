"""The part of a file that has arrived, and what is needed to go on with it in another process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from clipctl.contract.errors import CannotCreateError, PermissionDeniedError

_WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
}


class Partial:
    """`.NAME.part` beside the target, with `.NAME.part.json` that says of which version of which source it is."""

    def __init__(self, target: Path, where: str) -> None:
        self._target, self._where = target, where
        self.path = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.part.json")

    def resume(self) -> tuple[int, str | None]:
        """Bytes that are there and the version they belong to; (0, None) if they are of no use."""
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return 0, None
        usable = isinstance(notes, dict) and notes.get("source") == self._where
        validator = notes.get("validator") if usable else None
        return (size, validator) if isinstance(validator, str) else (0, None)

    @contextlib.contextmanager
    def writing(self, start: int, validator: str | None) -> Iterator[Writer]:
        """Append from `start` on; what stands behind `start` is dropped."""
        with translated(self._target):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._notes.write_text(json.dumps({"source": self._where, "validator": validator}), encoding="utf-8")
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            with translated(self._target):
                file.truncate(start)
                file.seek(start)
            yield Writer(file.fileno(), self._target)

    def publish(self) -> None:
        """Make it the target: complete on the disk first, then under its name, at once."""
        with translated(self._target):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self.path, self._target)
            sync_directory(self._target.parent)
            self._notes.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


class Writer:
    """Writes whole chunks."""

    def __init__(self, descriptor: int, target: Path) -> None:
        self._descriptor, self._target = descriptor, target

    def write(self, chunk: bytes) -> None:
        """Write all of it. Raises `CannotCreateError` if the disk is full."""
        view = memoryview(chunk)
        with translated(self._target):
            while view:
                view = view[os.write(self._descriptor, view) :]


@contextlib.contextmanager
def translated(target: Path) -> Iterator[None]:
    """Errors of the file system as typed errors that name the target."""
    try:
        yield
    except PermissionError as error:
        raise PermissionDeniedError(
            f"no permission to write {target}.", hint="Choose another directory with --cache-dir, or XDG_CACHE_HOME."
        ) from error
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        raise CannotCreateError(
            f"cannot write {target}: {why}.", hint="Make room, or choose another directory with --cache-dir."
        ) from error


def sync_directory(path: Path) -> None:
    """Make a rename in this directory survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
