"""What the body of an answer is, and what is stored of it: the image byte for byte, or a smaller one."""

from __future__ import annotations

from clip_trainer.data.gather.errors import GatherError
from clip_trainer.data.shards.grouping import IMAGE_SUFFIXES
from clip_trainer.data.shards.image_header import read_header
from clip_trainer.data.writing.image import StoredImage
from clip_trainer.data.writing.image_resize import MAX_PIXELS, Resize, Undecodable

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_OTHER_IMAGES = (b"II*\0", b"MM\0*", b"\0\0\1\0", b"\xff\x0a", b"\0\0\0\x0cJXL ")


def checked_image(data: bytes, max_pixels: int = MAX_PIXELS, resize: Resize | None = None) -> StoredImage:
    """What is stored of an image. Its kind is what its first bytes say: what a server calls it is often wrong.

    Args:
        data: the body.
        max_pixels: larger images are refused, before anything is decoded.
        resize: how to make it smaller; else nothing is decoded at all.

    Raises:
        GatherError: `not-an-image`, `unsupported-format`, `broken-image` or `too-many-pixels`.
    """
    header = read_header(data)
    if header is None:
        raise GatherError(_unreadable(data), f"starts with {data[:16]!r}", code=200)
    size = (header.width, header.height)
    if header.width * header.height > max_pixels:
        raise GatherError("too-many-pixels", f"{header.width}x{header.height}", code=200)
    if header.kind in IMAGE_SUFFIXES and not (resize and resize.shrinks(*size)):
        return StoredImage(header.kind, data, size, size)
    if resize is None:
        raise GatherError("unsupported-format", header.kind, code=200)
    try:
        smaller, size, original = resize.apply(data)
    except Undecodable as error:
        raise GatherError("broken-image", str(error), code=200) from error
    return StoredImage("jpg", smaller, size, original)


def _unreadable(data: bytes) -> str:
    """Why there is no header."""
    if data.startswith(_OTHER_IMAGES) or data[4:8] == b"ftyp":
        return "unsupported-format"
    return "broken-image" if data.startswith(_IMAGES) or data[8:12] == b"WEBP" else "not-an-image"
