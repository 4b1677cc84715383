"""Blocks of remote shards as files on a local disk, within a limit, shared by all processes of a node.

What a killed process or the disk spoils is noticed (see `block_file`) and fetched again. Least recently used files go
first.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import xxhash

from clip_trainer.data.storage.block_file import DamagedBlockError, file_bytes, read_block, write_block
from clipctl.contract.errors import CannotCreateError

_log = logging.getLogger(__name__)

_SUFFIX = ".block"
_SLACK = 64  # a process looks at the directory again when it has written a 64th of the limit
_SPARE = 8  # ... and leaves an 8th free, so that several processes stay within the limit
_ABANDONED = 600.0  # seconds after which an unfinished file belongs to nobody


class BlockKey(NamedTuple):
    """A block of one version of an object."""

    base: str
    name: str
    etag: str
    number: int


class BlockStore:
    """Keeps blocks; safe to share between threads and processes.

    Args:
        directory: where; made if it does not exist.
        limit: bytes of all files together.

    Raises:
        CannotCreateError: the directory cannot be made or written to.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory, self._limit = directory, limit
        self._lock = threading.Lock()
        self._written = limit  # unknown what is there: look before the first block is added
        self._stopped = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_file().close()
        except OSError as error:
            hint = "Choose another directory for the cache."
            raise CannotCreateError(f"{directory} cannot be used as a cache: {error.strerror}.", hint=hint) from error

    def get(self, key: BlockKey, start: int, stop: int) -> bytes | None:
        """The bytes `[start, stop)` of a block, fewer if it ends before; None if it is not there or spoilt."""
        path = self._path(key)
        try:
            part = read_block(path, start, stop)
            os.utime(path)  # used now
        except DamagedBlockError:
            self.drop(key)
            return None
        except OSError:
            return None
        return part

    def drop(self, key: BlockKey) -> None:
        """Forget a block, if it is there."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def put(self, key: BlockKey, block: bytes) -> None:
        """Keep a block. What goes wrong is said once, and from then on nothing is added."""
        size = file_bytes(len(block))
        if self._stopped or size > self._limit - self._limit // _SPARE:
            return
        path = self._path(key)
        try:
            self._make_room(size)
            write_block(path, block)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and path.parent.is_dir():
                return  # another process took it for abandoned: the clock was set, or this machine slept meanwhile
            with self._lock:
                stopped, self._stopped = self._stopped, True
            if not stopped:
                _log.warning("The cache in %s takes no more blocks: %s.", self._directory, error.strerror)

    def _path(self, key: BlockKey) -> Path:
        # Lengths keep the parts apart, whatever they hold.
        text = "".join(f"{len(str(part))}:{part}" for part in key)
        digest = xxhash.xxh3_128_hexdigest(text.encode())
        return self._directory / digest[:2] / f"{digest[2:]}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._written * _SLACK < self._limit:
                return
            self._written = size
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            self._evict(size)

    def _evict(self, size: int) -> None:
        """Delete the files that were not used for longest until `size` more bytes fit, with some to spare."""
        found = sorted(self._files())
        total = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in found:
            if total + size <= self._limit - self._limit // _SPARE:
                return
            if not path.endswith(_SUFFIX):
                continue  # somebody is writing it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= bytes_

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, bytes and path of every file; what killed processes left behind goes at once."""
        abandoned = time.time() - _ABANDONED
        for folder in os.scandir(self._directory):
            if not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    state = entry.stat(follow_symlinks=False)
                    if not entry.name.endswith(_SUFFIX) and state.st_mtime < abandoned:
                        os.unlink(entry)
                    else:
                        yield state.st_mtime, state.st_size, entry.path

    def _lock_file(self) -> IO[str]:
        return (self._directory / "lock").open("w")
