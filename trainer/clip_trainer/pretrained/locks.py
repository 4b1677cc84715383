"""One process at a time: the ranks of a node fetch a file once, the others wait and find it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from clip_trainer.pretrained.partial import translated


@contextlib.contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file at `path`; the kernel releases it when the process dies, however it dies.

    Args:
        path: the file; it stays, because removing it would let two processes lock two files of one name.
        on_wait: called once if another process holds it.

    Raises:
        PermissionDeniedError, CannotCreateError: the file cannot be made.
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
