"""Pictures that make transforms disagree: every mode of Pillow's that image files have, in odd sizes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

MODES = ("RGB", "L", "LA", "RGBA", "P", "PA", "1", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")
"""Modes that `picture` makes."""
SIZES = ((333, 217), (217, 333), (1, 1000), (1000, 1), (3, 700), (30, 31), (64, 64), (8, 8), (1, 1), (500, 37))
"""Heights and widths: odd, thin, tiny, already right."""


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise over a gradient (so that resampling matters and colours cover their range)."""
    source = np.random.default_rng(height * 10_007 + width + seed)
    rows, columns = np.mgrid[0:height, 0:width]
    slope = (rows * 255 // max(1, height) + columns * 255 // max(1, width))[:, :, None]
    pixels = ((slope + source.integers(0, 160, (height, width, 4))) % 256).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    if mode == "P":
        return Image.fromarray(pixels[:, :, :3]).quantize(17)
    if mode == "PA":
        return Image.fromarray(pixels[:, :, :3]).quantize(17).convert("PA")
    if mode in ("RGBA", "LA"):
        return Image.fromarray(pixels).convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", Image.fromarray(pixels[:, :, :3]).split())
    return Image.fromarray(pixels[:, :, :3]).convert(mode)


def rotated_by_exif(height: int, width: int) -> Image.Image:
    """A JPEG file whose EXIF data ask for a quarter turn."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(height, width).save(buffer, "JPEG", exif=exif)
    return Image.open(buffer)
