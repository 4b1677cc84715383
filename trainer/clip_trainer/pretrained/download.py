"""One file from its origin to its place: resumed, verified, published at once or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clip_trainer.pretrained.digests import Expected, check
from clip_trainer.pretrained.origins import Opened, Origin
from clip_trainer.pretrained.partial import Partial
from clip_trainer.pretrained.patience import Patience, TransientError
from clip_trainer.pretrained.settings import FetchSettings
from clipctl.contract.errors import CannotCreateError, CorruptError

_CORRUPT_HINT = "Nothing was kept. The file at its source, or a proxy on the way, is damaged: try again, or a mirror."


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is."""

    name: str
    done: int  # bytes
    total: int | None  # bytes; None if the server does not say
    waiting: bool = False  # another process is fetching this file


Progress = Callable[[DownloadProgress], None]
"""Told how far a download is, after every chunk."""


def ignore(progress: DownloadProgress) -> None:
    """The progress callback of those who do not want to know."""


def download(
    origin: Origin,
    target: Path,
    expected: Expected,
    settings: FetchSettings,
    progress: Progress = ignore,
) -> str:
    """Fetch a file. The caller holds the lock of `target`.

    Args:
        origin: where from.
        target: where to; it appears complete and verified, or not at all.
        expected: what is known of the content.
        settings: patience and clock.
        progress: told after every chunk.

    Returns:
        sha256 of the file.

    Raises:
        CorruptError: the content is not the expected one; nothing is left behind.
        UnavailableError: no progress for too long; what arrived is kept for the next call.
        CannotCreateError: the disk is full or read-only.
        ClipError: the origin refuses.
    """
    partial = Partial(target, origin.where)
    resumed = partial.resume()[0] > 0
    while True:
        promised = _transfer_all(origin, partial, expected, settings, progress)
        try:
            digest = _check(partial.path, expected, promised, origin.where)
        except CorruptError as error:
            partial.discard()
            if not resumed:
                raise CorruptError(error.problem, hint=_CORRUPT_HINT) from error
            # What an earlier process left may be the damaged part: once more, from the beginning.
            resumed = False
            continue
        partial.publish()
        return digest


def _check(path: Path, expected: Expected, promised: Expected, name: str) -> str:
    digest = check(path, expected, name)
    return check(path, promised, name) if promised.verifiable and promised != expected else digest


def _transfer_all(
    origin: Origin, partial: Partial, expected: Expected, settings: FetchSettings, progress: Progress
) -> Expected:
    """Read until the file is there; what the source promised about it."""
    patience = _Watermark(settings)
    while True:
        offset, validator = partial.resume()
        try:
            opened = origin.open(offset, validator)
            try:
                _transfer(opened, origin.where, partial, expected, patience, progress)
            finally:
                opened.close()
            return opened.promised
        except TransientError as error:
            patience.wait_after(error)


class _Watermark(Patience):
    """Patience that counts only bytes that no attempt had before: starting over again and again is no progress."""

    def __init__(self, settings: FetchSettings) -> None:
        super().__init__(settings.give_up_after, settings.clock)
        self._highest = 0

    def reached(self, done: int) -> None:
        """So many bytes of the file are there."""
        if done > self._highest:
            self._highest = done
            self.progressed()


def _transfer(
    opened: Opened, where: str, partial: Partial, expected: Expected, patience: _Watermark, progress: Progress
) -> None:
    """Read one answer to its end."""
    name = where.rpartition("/")[2]
    total = opened.total if opened.total is not None else expected.size
    done = opened.start
    with partial.writing(opened.start, opened.validator) as writer:
        _check_room(partial.path, total, done)
        for chunk in opened.chunks:
            writer.write(chunk)
            done += len(chunk)
            patience.reached(done)
            progress(DownloadProgress(name, done, total))
            if expected.size is not None and done > expected.size:
                break  # the check will say so; the rest is not worth reading
    if total is not None and done < total:
        raise TransientError(f"{where}: the connection ended after {done} of {total} bytes.")


def _check_room(path: Path, total: int | None, done: int) -> None:
    """Refuse a download that cannot end well while nothing was written yet."""
    if total is None:
        return
    free = shutil.disk_usage(path.parent).free
    if total - done > free:
        raise CannotCreateError(
            f"{path.parent} has {free} bytes free, and {total - done} are needed.",
            hint="Make room, or choose another directory with --cache-dir.",
        )
