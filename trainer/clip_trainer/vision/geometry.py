"""Where to cut and how large to scale: pure arithmetic on sizes (OpenCLIP's and torchvision's formulas)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clip_trainer.vision.decode import Pixels

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Crop:
    """A rectangle of whole pixels inside an image."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Pixels) -> Pixels:
        """The rectangle of an image [height, width, channels], a view."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


class KeyedStream:
    """Random numbers that are a pure function of a 64-bit key: splitmix64 (Steele et al., OOPSLA 2014).

    Own arithmetic in place of a library's generator: the stream never changes with a library's version.

    Args:
        key: the name of the stream; taken modulo 2**64.
    """

    def __init__(self, key: int) -> None:
        self._state = key & _MASK

    def bits(self) -> int:
        """The next 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return (self.bits() * count) >> 64


def random_crop(
    height: int, width: int, stream: KeyedStream, scale: tuple[float, float], ratio: tuple[float, float]
) -> Crop:
    """A crop of random area and aspect ratio (Inception-style, as torchvision's RandomResizedCrop draws it).

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        stream: where the randomness comes from.
        scale: least and greatest fraction of the image's area.
        ratio: least and greatest width / height; its logarithm is drawn uniformly.
    """
    for _ in range(10):
        area = height * width * stream.uniform(*scale)
        aspect = math.exp(stream.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = stream.below(height - crop_height + 1), stream.below(width - crop_width + 1)
            return Crop(top, left, crop_height, crop_width)
    return largest_central_crop(height, width, ratio)


def largest_central_crop(height: int, width: int, ratio: tuple[float, float]) -> Crop:
    """The largest central crop whose aspect ratio is allowed; for images too long for `random_crop`."""
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        crop_width = min(width, max(1, round(height * ratio[1])))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def central_part(height: int, width: int, longest: int = 512) -> Crop:
    """The central part of an image, at most `longest` times as long as it is wide; the whole of a usual one."""
    crop_height, crop_width = min(height, longest * width), min(width, longest * height)
    # The centre stays exactly where it was only if as much goes on one side as on the other.
    crop_height -= (height - crop_height) % 2
    crop_width -= (width - crop_width) % 2
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def shortest_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after scaling the shorter side to `size` (the longer one is rounded down)."""
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def kept_ratio_size(height: int, width: int, target: tuple[int, int], longest: float) -> tuple[int, int]:
    """Height and width after scaling by one factor until a side equals the target's (timm's formula).

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        target: height and width wanted.
        longest: 1 to fit inside the target, 0 to cover it, between them a mixture.
    """
    tall, wide = height / target[0], width / target[1]
    shrink = max(tall, wide) * longest + min(tall, wide) * (1.0 - longest)
    return max(1, round(height / shrink)), max(1, round(width / shrink))


def centred(height: int, width: int, crop_height: int, crop_width: int) -> Crop:
    """The rectangle in the middle (odd remainders rounded half to even, as torchvision does)."""
    return Crop(round((height - crop_height) / 2.0), round((width - crop_width) / 2.0), crop_height, crop_width)
