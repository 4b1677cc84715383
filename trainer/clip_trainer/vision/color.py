"""Changes of colour on Pillow images: the same pixels as torchvision's functions of the same names. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

Range = tuple[float, float]


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Mix with black: 0 is black, 1 the image, more is brighter."""
    return ImageEnhance.Brightness(image).enhance(factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Mix with the mean gray: 0 is gray, 1 the image."""
    return ImageEnhance.Contrast(image).enhance(factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Mix with the gray image: 0 is gray, 1 the image."""
    return ImageEnhance.Color(image).enhance(factor)


def adjust_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue circle.

    Args:
        image: what to change; gray images are left alone.
        turn: part of a whole turn, -0.5 to 0.5.

    Raises:
        ValueError: `turn` is outside.
    """
    if not -0.5 <= turn <= 0.5:
        raise ValueError(f"the hue can be turned by -0.5 to 0.5, not {turn}")
    if image.mode in ("1", "L", "I", "F"):
        return image
    hue, saturation, value = image.convert("HSV").split()
    # Hue is a byte, a circle of 256 steps; torchvision turns by turn * 255 of them.
    turned = np.asarray(hue) + np.uint8(int(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert(image.mode)


def to_gray(image: Image.Image) -> Image.Image:
    """The luminance (ITU-R 601-2) in all three channels."""
    gray = image.convert("L")
    return Image.merge("RGB", (gray, gray, gray))


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""In the order in which OpenCLIP's `color_jitter` gives their strengths."""


@dataclass(frozen=True)
class JitterRanges:
    """From what range each of `ADJUSTMENTS` draws its factor; None leaves it out."""

    ranges: tuple[Range | None, ...]

    @classmethod
    def of(cls, strengths: Sequence[float | Sequence[float]]) -> JitterRanges:
        """Ranges of strengths: 1 - s to 1 + s, not below 0, and -s to s for the hue; or the ranges themselves.

        Raises:
            ValueError: a strength is negative, a hue above 0.5, a range turned around, or there are more than four.
        """
        if len(strengths) > len(ADJUSTMENTS):
            raise ValueError(f"colour jitter has at most four strengths, not {len(strengths)}")
        padded = [*strengths, *[0.0] * (len(ADJUSTMENTS) - len(strengths))]
        return cls(tuple(_range(index, strength) for index, strength in enumerate(padded)))


def _range(index: int, strength: float | Sequence[float]) -> Range | None:
    is_hue = ADJUSTMENTS[index] is adjust_hue
    centre, least, greatest = (0.0, -0.5, 0.5) if is_hue else (1.0, 0.0, float("inf"))
    if isinstance(strength, (int, float)):
        if strength < 0:
            raise ValueError(f"the strength {strength} of colour jitter is negative")
        low, high = centre - strength, centre + strength
        low = low if is_hue else max(low, 0.0)
    else:
        low, high = (float(bound) for bound in strength)
    if not least <= low <= high <= greatest:
        raise ValueError(f"colour jitter from {low} to {high} is not between {least} and {greatest}")
    return None if low == high == centre else (low, high)
