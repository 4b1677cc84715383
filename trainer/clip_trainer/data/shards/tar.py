"""A tar reader that notices damage.

Python's `tarfile` in stream mode accepts a fifth of all truncation points and ends quietly at a damaged header. Here
every header must carry a correct checksum and a known format, every member must be there in full, and an archive must
end with two zero blocks followed by nothing but zeros; anything else is a `CorruptError` that names archive and
offset. Members are never extracted, so names such as `../x`, links and devices cannot do harm: only regular files are
reported.

Formats: POSIX ustar and pax (`path`, `size`), GNU (long names, base-256 numbers) and v7. Sparse files are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from clip_trainer.data.shards.tar_header import (
    BLOCK,
    HeaderError,
    check_header,
    compression,
    read_name,
    read_number,
    read_pax,
    read_text,
)
from clipctl.contract.errors import CorruptError

_ZERO = bytes(BLOCK)
_SKIP_CHUNK = 1 << 20
_MAX_EXTENDED_HEADER = 1 << 20  # bytes; a longer pax or GNU long-name header is an attack, not a name
_MAX_EXTENDED = 16  # headers before one member; two are usual
_MAX_NAME = 4096
_MAX_LOADED = 1 << 30  # bytes; a header may claim anything, so larger content is passed over unread
_REGULAR = frozenset(b"0\x007")
_PASSED_OVER = frozenset(b"123456")  # links, devices, directories, fifos: a header without content

Read = Callable[[int], bytes]
"""Reads up to n bytes; fewer only at the end of the stream."""


class Member(NamedTuple):
    """A regular file of an archive. Offsets and sizes in bytes from the start of the archive."""

    name: str
    header_offset: int  # first header block that belongs to it, extended headers included
    data_offset: int
    size: int
    data: bytes | None  # the content if it was wanted


class TarReader:
    """Iterates over the regular files of an archive, strictly.

    Args:
        read: the byte stream; every byte of it is consumed, the blocks after the end marker too.
        where: how errors call the archive.
        wanted: whether a member's content is to be loaded, by its name; none is by default.
        fragment: the stream is a run of whole members cut out of an archive, so it ends at a border of members
            instead of with two zero blocks.
        start: offset of the stream's first byte within the archive.

    Attributes:
        end: offset behind the last member, once iteration has ended.
    """

    def __init__(
        self,
        read: Read,
        where: str,
        *,
        wanted: Callable[[str], bool] = lambda name: False,
        fragment: bool = False,
        start: int = 0,
    ) -> None:
        self._read, self._where, self._wanted, self._fragment = read, where, wanted, fragment
        self._offset = start
        self.end = start

    def __iter__(self) -> Iterator[Member]:
        """Yield each regular file before the one after it is looked at.

        Raises:
            CorruptError: the archive is damaged, truncated or not a tar.
        """
        try:
            yield from self._members()
        except HeaderError as error:
            self._fail(str(error))

    def _members(self) -> Iterator[Member]:
        first_header, extended, extending = self._offset, dict[str, str](), 0
        while (header := self._header()) is not None:
            kind = header[156]
            if kind in b"xLKg":
                extending += 1
                if extending > _MAX_EXTENDED:
                    self._fail(f"has more than {_MAX_EXTENDED} extended headers for one member")
                self._extend(kind, header, extended)
                continue
            size = int(extended["size"]) if "size" in extended else read_number(header[124:136])
            if kind in _REGULAR:
                yield self._member(extended.get("path") or read_name(header), first_header, size)
            elif kind not in _PASSED_OVER:
                self._fail(f"holds a member of unsupported type {chr(kind)!r}")
            first_header, extended, extending = self._offset, {}, 0
            self.end = self._offset
        if extended or first_header != self.end:
            self._fail("ends after an extended header without its member")

    def _member(self, name: str, first_header: int, size: int) -> Member:
        if len(name) > _MAX_NAME or not name:
            self._fail(f"holds a member name of {len(name)} characters")
        at = self._offset
        data = None
        if size <= _MAX_LOADED and self._wanted(name):
            data = self._exactly(size)
            self._exactly(-size % BLOCK)
        else:
            self._skip(size)
        return Member(name, first_header, at, size, data)

    def _header(self) -> bytes | None:
        """The next header block, or None at the end of the archive."""
        block = self._read(BLOCK)
        if self._fragment and not block:
            return None
        if block == _ZERO:
            self._end_of_archive()
            return None
        if self._offset == 0 and (found := compression(block)) is not None:
            self._refuse_compressed(block, *found)
        check_header(block)
        self._offset += BLOCK
        return block

    def _refuse_compressed(self, block: bytes, how: str, remedy: str) -> None:
        """Say so, unless it is a header after all, of a file whose name begins with these letters."""
        try:
            check_header(block)
        except HeaderError as error:
            raise CorruptError(
                f"{self._where} is {how}-compressed: {remedy} it.",
                hint="Shards are read in pieces, so they cannot be compressed; images are already.",
            ) from error

    def _end_of_archive(self) -> None:
        if self._fragment:
            self._fail("has an empty block inside a sample")
        if self._read(BLOCK) != _ZERO:
            self._fail("ends with a lone zero block: it is truncated or damaged")
        while rest := self._read(_SKIP_CHUNK):
            if rest.strip(b"\0"):
                self._fail("has data behind its end-of-archive marker (concatenated archives?)")

    def _extend(self, kind: int, header: bytes, extended: dict[str, str]) -> None:
        """Take in a pax or GNU header that speaks about the next member."""
        size = read_number(header[124:136])
        if size > _MAX_EXTENDED_HEADER:
            self._fail(f"has an extended header of {size} bytes")
        payload = self._exactly(size)
        self._exactly(-size % BLOCK)
        if kind == ord("L"):
            extended["path"] = read_text(payload.split(b"\0", 1)[0])
        elif kind == ord("x"):
            extended.update(read_pax(payload))
        # "K" (long link target) and "g" (defaults for the archive) say nothing we use.

    def _exactly(self, count: int) -> bytes:
        data = self._read(count) if count else b""
        if len(data) < count:
            self._fail("is truncated inside a member")
        self._offset += count
        return data

    def _skip(self, size: int) -> None:
        left = size + -size % BLOCK
        while left:
            left -= len(self._exactly(min(left, _SKIP_CHUNK)))

    def _fail(self, problem: str) -> NoReturn:
        raise CorruptError(
            f"{self._where}: the tar {problem} (near byte {self._offset}).",
            hint="Fetch or pack the shard again.",
        )
