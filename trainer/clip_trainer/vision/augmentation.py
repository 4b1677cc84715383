"""Random changes of Pillow images, drawn as OpenCLIP draws them: from the global generators of torch and `random`.

Equal seeds give equal images in both. Training uses `transform` in place of these, whose draws belong to the sample.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from PIL import Image

from clip_trainer.vision.color import ADJUSTMENTS, JitterRanges, to_gray
from clip_trainer.vision.geometry import Crop, largest_central_crop
from clip_trainer.vision.resizing import Size, crop_to, height_width, resize_to

DEFAULT_RATIO = (3 / 4, 4 / 3)
"""Least and greatest aspect ratio of a random crop."""
_TRIES = 10


class RandomResizedCrop:
    """A rectangle of random area and aspect ratio, resized (Inception; draws as torchvision's class of this name).

    Args:
        size: of the result.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width / height.
        interpolation: resampling filter.
    """

    def __init__(
        self,
        size: Size,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = DEFAULT_RATIO,
        interpolation: str = "bicubic",
    ) -> None:
        self.size = height_width(size)
        self.scale = (scale[0], scale[1])
        self.ratio = (ratio[0], ratio[1])
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """The cut and resized image, in its own mode."""
        crop = self.draw(image.height, image.width)
        return resize_to(crop_to(image, crop), *self.size, self.interpolation)

    def draw(self, height: int, width: int) -> Crop:
        """The next rectangle for an image of a size: four draws a try, all in float32."""
        low, high = torch.tensor(self.ratio).log().tolist()
        for _ in range(_TRIES):
            area = height * width * _uniform(*self.scale)
            aspect = torch.empty(1).uniform_(low, high).exp_().item()
            crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(torch.randint(0, height - crop_height + 1, (1,)))
                return Crop(top, int(torch.randint(0, width - crop_width + 1, (1,))), crop_height, crop_width)
        return largest_central_crop(height, width, self.ratio)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, scale={self.scale}, ratio={self.ratio})"


class TimmRandomResizedCrop(RandomResizedCrop):
    """The same with timm's draws; `interpolation` may be `random`, which draws one of two filters for each image."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """The cut and resized image, in its own mode."""
        crop = self.draw(image.height, image.width)
        drawn = self.interpolation == "random"
        interpolation = random.choice(("bilinear", "bicubic")) if drawn else self.interpolation  # noqa: S311
        return resize_to(crop_to(image, crop), *self.size, interpolation)

    def draw(self, height: int, width: int) -> Crop:
        """The next rectangle for an image of a size: four draws of `random` a try."""
        low, high = (math.log(bound) for bound in self.ratio)
        for _ in range(_TRIES):
            area = random.uniform(*self.scale) * (width * height)  # noqa: S311
            aspect = math.exp(random.uniform(low, high))  # noqa: S311
            crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            # timm takes an empty rectangle too, and fails at the next step.
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = random.randint(0, height - crop_height)  # noqa: S311
                return Crop(top, random.randint(0, width - crop_width), crop_height, crop_width)  # noqa: S311
        return largest_central_crop(height, width, self.ratio)


class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order (draws as torchvision's class of this name).

    Args:
        *strengths: of the four, in this order; see `JitterRanges.of`.
    """

    def __init__(self, *strengths: float | Sequence[float]) -> None:
        self.ranges = JitterRanges.of(strengths).ranges

    def __call__(self, image: Image.Image) -> Image.Image:
        """The changed image."""
        order = torch.randperm(len(ADJUSTMENTS)).tolist()
        factors = [None if bounds is None else _uniform(*bounds) for bounds in self.ranges]
        for index in order:
            factor = factors[index]
            if factor is not None:
                image = ADJUSTMENTS[index](image, factor)
        return image

    def __repr__(self) -> str:
        return f"ColorJitter(ranges={self.ranges})"


class RandomColorJitter:
    """`ColorJitter` for a share of the images, drawn from `random`.

    Raises:
        ValueError: the share is no probability.
    """

    def __init__(self, strengths: Sequence[float], probability: float = 0.8) -> None:
        _check_probability(probability)
        self.p = probability
        self.jitter = ColorJitter(*strengths)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, perhaps changed."""
        return self.jitter(image) if random.random() < self.p else image  # noqa: S311

    def __repr__(self) -> str:
        return f"RandomColorJitter(p={self.p}, {self.jitter})"


class RandomGrayscale:
    """Gray in all three channels for a share of the images, drawn from `random`.

    Raises:
        ValueError: the share is no probability.
    """

    def __init__(self, probability: float = 0.2) -> None:
        _check_probability(probability)
        self.p = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, perhaps gray."""
        return to_gray(image) if random.random() < self.p else image  # noqa: S311

    def __repr__(self) -> str:
        return f"RandomGrayscale(p={self.p})"


class RandomErasing:
    """Overwrite rectangles of a normalised tensor with normal noise, in place (arXiv 1708.04896; timm's draws).

    Args:
        probability: share of the images.
        count: most rectangles in an image; their number is drawn, and their area divided by it.
    """

    def __init__(self, probability: float, count: int = 1) -> None:
        _check_probability(probability)
        self.p = probability
        self.count = count

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor [channels, h, w], perhaps with noise in it."""
        if random.random() > self.p:  # noqa: S311
            return tensor
        channels, height, width = tensor.shape
        count = 1 if self.count == 1 else random.randint(1, self.count)  # noqa: S311
        for _ in range(count):
            crop = self._draw(height, width, count)
            if crop is not None:
                noise = torch.empty(channels, crop.height, crop.width, dtype=tensor.dtype).normal_()
                tensor[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = noise
        return tensor

    @staticmethod
    def _draw(height: int, width: int, count: int) -> Crop | None:
        for _ in range(_TRIES):
            area = random.uniform(*ERASED_AREA) * (height * width) / count  # noqa: S311
            aspect = math.exp(random.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))  # noqa: S311
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if tall < height and wide < width:
                return Crop(random.randint(0, height - tall), random.randint(0, width - wide), tall, wide)  # noqa: S311
        return None

    def __repr__(self) -> str:
        return f"RandomErasing(p={self.p}, count=(1, {self.count}))"


ERASED_AREA = (0.02, 1 / 3)
"""Least and greatest share of the image in one erased rectangle."""
ERASED_RATIO = (0.3, 1 / 0.3)
"""Least and greatest height / width of it."""


def _uniform(low: float, high: float) -> float:
    return torch.empty(1).uniform_(low, high).item()


def _check_probability(probability: float) -> None:
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{probability} is no probability")
