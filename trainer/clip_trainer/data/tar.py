"""A tar reader that notices damage.

Python's `tarfile` in stream mode accepts a fifth of all truncation points and ends quietly at a damaged header. Here
every header must carry a correct checksum and a known format, every member must be there in full, and an archive must
end with two zero blocks followed by nothing but zeros; anything else is a `CorruptError` that names archive and
offset. Members are never extracted, so names such as `../x`, links and devices cannot do harm: only regular files are
reported.

Formats: POSIX ustar and pax (`path`, `size`), GNU (long names, base-256 numbers) and v7. Sparse files are refused.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from clipctl.contract.errors import CorruptError

BLOCK = 512

_ZERO = bytes(BLOCK)
_SKIP_CHUNK = 1 << 20
_MAX_EXTENDED_HEADER = 1 << 20  # bytes; a longer pax or GNU long-name header is an attack, not a name
_MAX_EXTENDED = 16  # headers before one member; two are usual
_MAX_NAME = 4096
_REGULAR = frozenset(b"0\x007")
_PASSED_OVER = frozenset(b"123456")  # links, devices, directories, fifos: a header without content
_MAGICS = (b"ustar\x0000", b"ustar  \x00", bytes(8))
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*\Z")
_PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")
_SIZE = re.compile(r"[0-9]{1,15}\Z")

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
        first_header, extended, extending = self._offset, dict[str, str](), 0
        while (header := self._header()) is not None:
            kind = header[156]
            if kind in b"xLKg":
                extending += 1
                if extending > _MAX_EXTENDED:
                    self._fail(f"has more than {_MAX_EXTENDED} extended headers for one member")
                self._extend(kind, header, extended)
                continue
            size = int(extended["size"]) if "size" in extended else self._number(header[124:136])
            if kind in _REGULAR:
                yield self._member(extended.get("path") or _short_name(header), first_header, size)
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
        if self._wanted(name):
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
        problem = self._header_problem(block)
        if problem is not None:
            if self._offset == 0:
                self._refuse_compressed(block)
            self._fail(problem)
        self._offset += BLOCK
        return block

    def _header_problem(self, block: bytes) -> str | None:
        if len(block) < BLOCK:
            return "is truncated: no end-of-archive marker" if not block else "is truncated inside a header"
        if block[257:265] not in _MAGICS:
            return "has no tar header"
        if not _checksum_holds(block, self._number(block[148:156])):
            return "has a damaged header (wrong checksum)"
        return None

    def _refuse_compressed(self, block: bytes) -> None:
        for magic, (how, remedy) in _COMPRESSED.items():
            if block.startswith(magic):
                raise CorruptError(
                    f"{self._where} is {how}-compressed: {remedy} it.",
                    hint="Shards are read in pieces, so they cannot be compressed; images are already.",
                )

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
        size = self._number(header[124:136])
        if size > _MAX_EXTENDED_HEADER:
            self._fail(f"has an extended header of {size} bytes")
        payload = self._exactly(size)
        self._exactly(-size % BLOCK)
        if kind == ord("L"):
            extended["path"] = _text(payload.split(b"\0", 1)[0])
        elif kind == ord("x"):
            extended.update(self._pax(payload))
        # "K" (long link target) and "g" (defaults for the archive) say nothing we use.

    def _pax(self, payload: bytes) -> dict[str, str]:
        """Records of length, key and value, in time linear in their length; zeros may follow them."""
        records: dict[str, str] = {}
        end = len(payload.rstrip(b"\0"))
        at = 0
        while at < end:
            length = _PAX_LENGTH.match(payload, at)
            until = at + int(length.group(1)) if length else 0
            if length is None or not length.end() < until <= len(payload):
                self._fail("has a damaged pax header")
            key, equals, value = payload[length.end() : until].partition(b"=")
            if not equals or not value.endswith(b"\n"):
                self._fail("has a damaged pax header")
            if key.startswith(b"GNU.sparse"):
                self._fail("holds a sparse file")
            if key in (b"path", b"size"):
                records[key.decode()] = _text(value[:-1])
            at = until
        if not _SIZE.match(records.get("size", "0")):
            self._fail("has a damaged pax header")
        return records

    def _number(self, field: bytes) -> int:
        """An octal number, or GNU's base-256 form (first bit set)."""
        if field[0] & 0x80:
            if field[0] & 0x40:
                self._fail("has a negative number in a header")
            return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
        digits = _OCTAL.match(field)
        if digits is None:
            self._fail("has a damaged number in a header")
        return int(digits.group(1) or b"0", 8)

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


def _checksum_holds(block: bytes, stated: int) -> bool:
    """Whether a header's bytes, its checksum field blank, add up to the stated sum.

    POSIX adds unsigned bytes; some old tars added signed ones, which is looked at only if the first fails.
    """
    unsigned = _sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stated == unsigned:
        return True
    counted = block[:148] + block[156:]
    return stated == unsigned - 256 * sum(byte > 127 for byte in counted)


def _sum(block: bytes) -> int:
    """Sum of a block's bytes, five times faster than Python's: Adler-32's low half is 1 plus the sum, modulo 65521.

    Half a block at most sums up to 256 * 255 = 65280, so nothing is lost to the modulus.
    """
    half = BLOCK // 2
    return (zlib.adler32(block[:half]) & 0xFFFF) + (zlib.adler32(block[half:]) & 0xFFFF) - 2


def _short_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if header[257:265] == b"ustar\x0000" and prefix:
        name = prefix + b"/" + name
    return _text(name)


def _text(raw: bytes) -> str:
    # Names are only compared and shown, so bytes that are not UTF-8 are kept as Python's tarfile keeps them.
    return raw.decode("utf-8", "surrogateescape")
