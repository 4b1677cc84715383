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

from clipctl.contract.errors import CorruptError

BLOCK = 512

_ZERO = bytes(BLOCK)
_SKIP_CHUNK = 1 << 20
_MAX_EXTENDED_HEADER = 1 << 20  # bytes; a longer pax or GNU long-name header is an attack, not a name
_MAX_NAME = 4096
_REGULAR = frozenset(b"0\x007")
_PASSED_OVER = frozenset(b"123456")  # links, devices, directories, fifos: a header without content
_MAGICS = (b"ustar\x0000", b"ustar  \x00", bytes(8))

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
        first_header, extended = self._offset, dict[str, str]()
        while (header := self._header()) is not None:
            kind = header[156]
            if kind in b"xLKg":
                self._extend(kind, header, extended)
                continue
            size = int(extended["size"]) if "size" in extended else self._number(header[124:136])
            if kind in _REGULAR:
                yield self._member(extended.get("path") or _short_name(header), first_header, size)
            elif kind not in _PASSED_OVER:
                self._fail(f"holds a member of unsupported type {chr(kind)!r}")
            first_header, extended = self._offset, {}
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
        if len(block) < BLOCK:
            self._fail("is truncated: no end-of-archive marker" if not block else "is truncated inside a header")
        if block == _ZERO:
            self._end_of_archive()
            return None
        if block[257:265] not in _MAGICS:
            self._fail("has no tar header")
        if not _checksum_holds(block, self._number(block[148:156])):
            self._fail("has a damaged header (wrong checksum)")
        self._offset += BLOCK
        return block

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
        records: dict[str, str] = {}
        while payload.strip(b"\0"):
            digits, _, _ = payload.partition(b" ")
            if not digits.isdigit() or not len(digits) + 1 < int(digits) <= len(payload):
                self._fail("has a damaged pax header")
            record = payload[len(digits) + 1 : int(digits)]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n"):
                self._fail("has a damaged pax header")
            records[_text(key)] = _text(value[:-1])
            payload = payload[int(digits) :]
        if any(key.startswith("GNU.sparse") for key in records):
            self._fail("holds a sparse file")
        if not records.get("size", "0").isdigit():
            self._fail("has a damaged pax header")
        return {key: value for key, value in records.items() if key in ("path", "size")}

    def _number(self, field: bytes) -> int:
        """An octal number, or GNU's base-256 form (first bit set)."""
        if field[0] & 0x80:
            if field[0] & 0x40:
                self._fail("has a negative number in a header")
            return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
        digits = field.strip(b" \0")
        if digits and not all(0x30 <= digit <= 0x37 for digit in digits):
            self._fail("has a damaged number in a header")
        return int(digits or b"0", 8)

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
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stated == unsigned:
        return True
    counted = block[:148] + block[156:]
    return stated == unsigned - 256 * sum(byte > 127 for byte in counted)


def _short_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if header[257:265] == b"ustar\x0000" and prefix:
        name = prefix + b"/" + name
    return _text(name)


def _text(raw: bytes) -> str:
    # Names are only compared and shown, so bytes that are not UTF-8 are kept as Python's tarfile keeps them.
    return raw.decode("utf-8", "surrogateescape")
