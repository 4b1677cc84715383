"""Writing tar archives that are the same bytes whenever the members are the same.

Owners, modes and times are constants, so nothing of the machine gets in. Headers are ustar; a name that does not fit
there (over 100 bytes, not ASCII) gets a pax header in front, as `tarfile` and webdataset write and read it.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

from clip_trainer.data.shards.tar_header import BLOCK

_END = 2 * BLOCK


def member_bytes(name: str, data: bytes) -> bytes:
    """One member: its header, its content, and zeros up to the next block."""
    header = tarfile.TarInfo(name)  # starts with owner 0, mode 0644 and time 0
    header.size = len(data)
    head = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return b"".join((head, data, bytes(-len(data) % BLOCK)))


def members_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Members one after the other, without an end: a part of an archive."""
    return b"".join(member_bytes(name, data) for name, data in members)


def archive_size(content: int) -> int:
    """Bytes of a finished archive with this many bytes of members."""
    return content + _END + -(content + _END) % tarfile.RECORDSIZE


class TarBuffer:
    """An archive that grows in memory.

    Attributes:
        size: bytes of the members so far.
    """

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self.size = 0

    def add(self, members: bytes) -> None:
        """Append what `members_bytes` made."""
        self._buffer.write(members)
        self.size += len(members)

    def finish(self) -> bytes:
        """The whole archive: two zero blocks end it, zeros fill the last record, as `tarfile` does."""
        self._buffer.write(bytes(archive_size(self.size) - self.size))
        return self._buffer.getvalue()
