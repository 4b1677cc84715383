"""The fields of tar headers: POSIX ustar and pax (`path`, `size`), GNU (base-256 numbers) and v7.

Pure functions of bytes. What is wrong is a `HeaderError` with a few words that fit behind "the tar".
"""

from __future__ import annotations

import re
import zlib

BLOCK = 512

_MAGICS = (b"ustar\x0000", b"ustar  \x00", bytes(8))
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*\Z")
_PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")
_PAX_SIZE = re.compile(r"[0-9]{1,15}\Z")
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


class HeaderError(ValueError):
    """A header that is damaged, or none at all."""


def check_header(block: bytes) -> None:
    """Raises HeaderError unless the block is a header of a known format with a correct checksum."""
    if len(block) < BLOCK:
        raise HeaderError("is truncated: no end-of-archive marker" if not block else "is truncated inside a header")
    if block[257:265] not in _MAGICS:
        raise HeaderError("has no tar header")
    if not _checksum_holds(block, read_number(block[148:156])):
        raise HeaderError("has a damaged header (wrong checksum)")


def compression(block: bytes) -> tuple[str, str] | None:
    """How a file that starts like this is compressed, and the program that undoes it."""
    return next((found for magic, found in _COMPRESSED.items() if block.startswith(magic)), None)


def read_number(field: bytes) -> int:
    """An octal number, or GNU's base-256 form (first bit set)."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise HeaderError("has a negative number in a header")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    digits = _OCTAL.match(field)
    if digits is None:
        raise HeaderError("has a damaged number in a header")
    return int(digits.group(1) or b"0", 8)


def read_name(header: bytes) -> str:
    """The name in a header; extended headers may say another."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if header[257:265] == b"ustar\x0000" and prefix:
        name = prefix + b"/" + name
    return read_text(name)


def read_text(raw: bytes) -> str:
    """A name as text. Names are only compared and shown, so what is not UTF-8 is kept as Python's tarfile keeps it."""
    return raw.decode("utf-8", "surrogateescape")


def read_pax(payload: bytes) -> dict[str, str]:
    """The records of a pax header that we use, in time linear in its length; zeros may follow them."""
    records: dict[str, str] = {}
    end = len(payload.rstrip(b"\0"))
    at = 0
    while at < end:
        length = _PAX_LENGTH.match(payload, at)
        until = at + int(length.group(1)) if length else 0
        if length is None or not length.end() < until <= len(payload):
            raise HeaderError("has a damaged pax header")
        key, equals, value = payload[length.end() : until].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise HeaderError("has a damaged pax header")
        if key.startswith(b"GNU.sparse"):
            raise HeaderError("holds a sparse file")
        if key in (b"path", b"size"):
            records[key.decode()] = read_text(value[:-1])
        at = until
    if not _PAX_SIZE.match(records.get("size", "0")):
        raise HeaderError("has a damaged pax header")
    return records


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
