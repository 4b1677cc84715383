"""Open files, kept open: each sample is a read of a file that the thread has most likely read from before."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

KEPT = 16
"""Files that a thread keeps open: a few times the shards that its lanes read alternately, far below any limit."""


class OpenFiles:
    """File descriptors by name, a few for every thread; the one that was not used for the longest is closed first.

    Threads share nothing, so none can close what another one is reading. A file that was replaced in the meantime is
    read as it was when it was opened.

    Args:
        path_of: where the file of a name is.
    """

    def __init__(self, path_of: Callable[[str], Path]) -> None:
        self._path_of = path_of
        self._local = threading.local()

    def descriptor(self, name: str) -> int:
        """The file, open for reading. Raises OSError, and what `path_of` raises."""
        files: _Files | None = getattr(self._local, "files", None)
        if files is None:
            files = self._local.files = _Files(self._path_of)
        return files.descriptor(name)


class _Files:
    """The files of one thread; closed when the thread ends."""

    def __init__(self, path_of: Callable[[str], Path]) -> None:
        self._path_of = path_of
        self._open: OrderedDict[str, int] = OrderedDict()

    def descriptor(self, name: str) -> int:
        found = self._open.get(name)
        if found is None:
            found = self._open[name] = os.open(self._path_of(name), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) > KEPT:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(name)
        return found

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
