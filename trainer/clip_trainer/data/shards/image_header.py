"""Kind and size of an image from its first bytes, without an image library: what copying a file needs to know."""

from __future__ import annotations

import struct
from typing import NamedTuple

_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG's start-of-frame markers
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a length


class ImageHeader(NamedTuple):
    """What an image says about itself."""

    kind: str  # "jpg", "png", "webp", "gif" or "bmp"
    width: int  # pixels, EXIF orientation not applied
    height: int


def read_header(data: bytes) -> ImageHeader | None:
    """The header of an image file, or None if it is damaged or of another kind."""
    try:
        found = _header(data)
    except (struct.error, IndexError):
        return None
    return found if found is not None and found.width > 0 and found.height > 0 else None


def _header(data: bytes) -> ImageHeader | None:
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        return ImageHeader("png", *struct.unpack_from(">II", data, 16))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return ImageHeader("gif", *struct.unpack_from("<HH", data, 6))
    if data[:2] == b"BM":
        width, height = struct.unpack_from("<ii", data, 18)
        return ImageHeader("bmp", width, abs(height))
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if data[at] != 0xFF:
            return None
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageHeader("jpg", width, height)
        at += 2 if marker in _ALONE else 2 + struct.unpack_from(">H", data, at + 2)[0]


def _webp(data: bytes) -> ImageHeader | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return ImageHeader("webp", _uint24(data, 24) + 1, _uint24(data, 27) + 1)
    if chunk == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("webp", width & 0x3FFF, height & 0x3FFF)
    return None


def _uint24(data: bytes, at: int) -> int:
    low, middle, high = data[at], data[at + 1], data[at + 2]
    return low | middle << 8 | high << 16
