"""Image bytes to pixels, the way `PIL.Image.open(...).convert("RGB")` sees them. Does not import torch."""

from __future__ import annotations

import io
import re
import threading
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""Default limit on width * height, Pillow's own threshold for a suspected decompression bomb."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# simplejpeg converts these itself; it and Pillow disagree about CMYK, so that is Pillow's.
_TURBO_COLOURS = ("YCbCr", "Gray", "RGB")
# Pillow warns about odd palettes, metadata and large images; the pixels count here, and size has its own check.
_PILLOW_MODULES = r"PIL\."
_FILTERING = threading.Lock()


class UndecodableImage(ValueError):
    """The bytes are no image we can (or may) decode.

    Attributes:
        reason: short and stable enough to count by.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"undecodable image: {reason}")
        self.reason = reason


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> Pixels:
    """Decode an image file to uint8 RGB [height, width, 3].

    EXIF orientation is ignored and of an animation the first frame is taken, as OpenCLIP does. Alpha is dropped.

    Args:
        data: the file.
        max_pixels: refuse larger images before decoding them.
        enough: shorter side, in pixels, of which no more is needed. A JPEG of at least twice that is decoded at a half,
            a quarter or an eighth of its size (scaled inverse DCT). That takes about half the time, but the pixels are
            not those of decoding and resizing: with `enough` at twice the final size they differ by less than 3/255 in
            the mean. None: never.

    Raises:
        UndecodableImage: damaged, unknown format, or too large.
    """
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, max_pixels, enough)
        if pixels is not None:
            return pixels
    return _decode_any(data, max_pixels)


def _decode_jpeg(data: bytes, max_pixels: int, enough: int | None) -> Pixels | None:
    """Decode by libjpeg-turbo, or None where Pillow should decide (CMYK, damage it may tolerate)."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        if colours not in _TURBO_COLOURS:
            return None
        shrink = 1 if enough is None else _shrink(min(height, width), enough)
        least = {"min_height": -(-height // shrink), "min_width": -(-width // shrink), "min_factor": shrink}
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", **({} if shrink == 1 else least))
    except UndecodableImage:
        raise
    except ValueError:
        return None
    return pixels


def _shrink(side: int, enough: int) -> int:
    """By what a side may be divided so that `enough` is left. libjpeg is fast for powers of two only."""
    return next((divisor for divisor in (8, 4, 2) if side >= divisor * enough), 1)


def _decode_any(data: bytes, max_pixels: int) -> Pixels:
    """Decode by Pillow."""
    _ignore_pillow_warnings()
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size, max_pixels)
            pixels: Pixels = np.array(image.convert("RGB"))
    except UndecodableImage:
        raise
    except UnidentifiedImageError:
        raise UndecodableImage("not an image") from None
    except Image.DecompressionBombError:
        raise UndecodableImage("too many pixels") from None
    except Exception as error:
        # Pillow's plugins raise nearly anything on damaged files (OSError, SyntaxError, struct.error, IndexError...).
        raise UndecodableImage(f"damaged: {type(error).__name__}: {error}") from None
    return pixels


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise UndecodableImage("no pixels")
    if width * height > max_pixels:
        raise UndecodableImage(f"too many pixels: {width}x{height}")


def _ignore_pillow_warnings() -> None:
    """Make sure Pillow's warnings are ignored.

    `warnings.catch_warnings` swaps a global and so is not safe in loader threads; adding a filter once is.
    """
    wanted = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)
    with _FILTERING:  # to add it again would take it away first, under the eyes of a thread that decodes already
        if wanted not in warnings.filters:
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES)
