"""What the body of an answer is: an image that a data set may hold, and how large, without decoding it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

from clip_trainer.data.gather_errors import GatherError
from clipctl.contract.errors import MissingError

MAX_PIXELS = 89_478_485
"""Default limit on width * height: Pillow's threshold for a suspected decompression bomb, and training's limit."""

_UNSUPPORTED = (b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0", b"\xff\x0a", b"\0\0\0\x0cJXL ")


class ImageFacts(NamedTuple):
    """What the header of an image says."""

    suffix: str  # of the member that holds it
    width: int  # pixels
    height: int


def inspect_image(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Read an image's header.

    Raises:
        GatherError: `not-an-image`, `unsupported-format`, `broken-image` or `too-many-pixels`.
        MissingError: Pillow is not installed.
    """
    suffix = _suffix(data)
    width, height = _size(suffix, data)
    if width < 1 or height < 1:
        raise GatherError("broken-image", f"{width}x{height} pixels", code=200)
    if width * height > max_pixels:
        raise GatherError("too-many-pixels", f"{width}x{height}", code=200)
    return ImageFacts(suffix, width, height)


def _suffix(data: bytes) -> str:
    """The kind of an image by its first bytes: what a server calls it is often wrong."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(_UNSUPPORTED) or data[4:8] == b"ftyp":
        raise GatherError("unsupported-format", f"starts with {data[:12]!r}", code=200)
    raise GatherError("not-an-image", f"starts with {data[:24]!r}", code=200)


def _size(suffix: str, data: bytes) -> tuple[int, int]:
    try:
        from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin
    except ImportError as error:
        raise MissingError("Gathering images needs Pillow.", hint="Run `pip install pillow`.") from error
    # The readers themselves: `Image.open` would warn about large images, which are refused here anyway.
    readers: dict[str, Callable[[io.BytesIO], Any]] = {
        "jpg": JpegImagePlugin.JpegImageFile,
        "png": PngImagePlugin.PngImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
    }
    try:
        with readers[suffix](io.BytesIO(data)) as image:
            width, height = image.size
            return int(width), int(height)
    except Exception as error:
        # Pillow's readers raise nearly anything on damaged files (OSError, SyntaxError, struct.error, IndexError...).
        raise GatherError("broken-image", f"{type(error).__name__}: {error}"[:200], code=200) from error
