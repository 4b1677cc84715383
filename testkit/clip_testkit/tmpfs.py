"""A file system of a few megabytes, to be filled. Needs root."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BALLAST = ".ballast"


class SmallDisk:
    """A mounted file system; use it with `small_disk`.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def fill(self) -> None:
        """Leave not a byte."""
        with (self.path / _BALLAST).open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(_Full):
                    while True:
                        _write(file.fileno(), size)

    def relieve(self) -> None:
        """Take back what `fill` wrote."""
        (self.path / _BALLAST).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """A file system of `size` bytes, mounted at a directory that is made for it and gone at the end."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "clip-testkit", str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


class _Full(Exception):
    pass


def _write(descriptor: int, size: int) -> None:
    try:
        written = os.write(descriptor, bytes(size))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _Full from error
        raise
    if written < size:
        raise _Full
