"""A directory for the small files that an agent and its workers share: beacons and the progress file.

An agent that is killed cannot clean up, so the next one on this machine does. A lock, which the kernel lets go with the
process, tells directories in use from left-over ones; process ids would not, because containers number their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "clip-agent-"
_LOCK = "lock"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # for directories that nobody else can enter


def default_parent() -> Path:
    """Memory, if there is any for files, so that beacons do not depend on a disk; else the directory for such files."""
    usable = os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    return _SHARED_MEMORY if usable else Path(tempfile.gettempdir())


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new private directory in `parent`, removed in the end. Left-over ones of agents that were killed go as well.

    Raises:
        OSError: it cannot be made.
    """
    remove_left_over(parent)
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with (directory / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not directory.exists():
                continue  # another agent took it for left over before it was locked
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            return


def remove_left_over(parent: Path) -> None:
    """Remove the directories whose agents are gone. Others' are left alone, whether they can be read or not."""
    for file in parent.glob(f"{PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), file.open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.parent, ignore_errors=True)
