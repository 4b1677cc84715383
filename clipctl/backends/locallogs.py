"""Log lines of a local run from its pods' files, with and without following."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from clipctl.backends.localstate import RunDirectory

_POLL_SECONDS = 0.2


class Tail:
    """Yields the lines of one growing file that were not yielded before; a line without its end is held back."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: BinaryIO | None = None
        self._partial = b""

    def lines(self, *, final: bool = False) -> Iterator[str]:
        """New complete lines; with `final` also the incomplete last one."""
        if self._stream is None:
            if not self._file.exists():
                return
            self._stream = self._file.open("rb")
        *complete, self._partial = (self._partial + self._stream.read()).split(b"\n")
        if final and self._partial:
            complete, self._partial = [*complete, self._partial], b""
        for line in complete:
            yield line.decode(errors="replace").rstrip("\r")

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def log_lines(
    directory: RunDirectory,
    rank: int | None,
    follow: bool,
    ended: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """All lines of all pods, pod by pod; with `follow` new ones as they come, until `ended()`.

    Without `rank` the lines of several pods carry `[worker-N] ` in front. With it only that rank's lines come, which
    the launcher marks with `[rank N] `; a rank may move from pod to pod.
    """
    tails: dict[Path, Tail] = {}
    wanted = "" if rank is None else f"[rank {rank}] "
    try:
        while True:
            over = not follow or ended()  # asked before reading, so that no last line is missed
            files = directory.pod_logs()
            for file in files:
                tail = tails.setdefault(file, Tail(file))
                prefix = f"[worker-{file.stem.partition('-')[2]}] " if len(files) > 1 and rank is None else ""
                yield from (prefix + line for line in tail.lines(final=over) if line.startswith(wanted))
            if over:
                return
            sleep(_POLL_SECONDS)
    finally:
        for tail in tails.values():
            tail.close()
