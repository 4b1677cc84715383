"""Resizing, cutting and padding of Pillow images: the steps of OpenCLIP's evaluation, calling Pillow as it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageOps

from clip_trainer.vision.geometry import Crop, centred, kept_ratio_size, shortest_side_size

Size = int | Sequence[int]
"""Pixels: one number, or height and width."""

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
"""Resampling filters by name."""


def height_width(size: Size) -> tuple[int, int]:
    """Height and width of a size.

    Raises:
        ValueError: neither one number nor two.
    """
    numbers = (size,) * 2 if isinstance(size, int) else tuple(size) * (2 if len(size) == 1 else 1)
    if len(numbers) != 2:
        raise ValueError(f"a size is one number or height and width, not {size}")
    return int(numbers[0]), int(numbers[1])


def resize_to(image: Image.Image, height: int, width: int, interpolation: str) -> Image.Image:
    """Resize; an image of that size is returned as it is."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), FILTERS[interpolation])


def crop_to(image: Image.Image, crop: Crop) -> Image.Image:
    """Cut a rectangle out."""
    return image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))


class Resize:
    """Scale the shorter side to `size`, or, given two numbers, to that height and width."""

    def __init__(self, size: Size, interpolation: str = "bicubic") -> None:
        self.size = size
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """The resized image, in its own mode."""
        if isinstance(self.size, int):
            return resize_to(image, *shortest_side_size(image.height, image.width, self.size), self.interpolation)
        return resize_to(image, *height_width(self.size), self.interpolation)

    def __repr__(self) -> str:
        return f"Resize(size={self.size}, interpolation={self.interpolation})"


class ResizeKeepRatio:
    """Scale until one side fits the target: the longer one (`longest=1`, the image lies inside) or the other."""

    def __init__(self, size: Size, longest: float = 0.0, interpolation: str = "bicubic") -> None:
        self.size = height_width(size)
        self.longest = float(longest)
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """The resized image, in its own mode."""
        size = kept_ratio_size(image.height, image.width, self.size, self.longest)
        return resize_to(image, *size, self.interpolation)

    def __repr__(self) -> str:
        return f"ResizeKeepRatio(size={self.size}, interpolation={self.interpolation}, longest={self.longest:.3f})"


class CenterCropOrPad:
    """Cut the centre out; where the image is too small, pad it first.

    Args:
        size: of the result.
        fill: padding, 0 to 255, one number or one a channel.
    """

    def __init__(self, size: Size, fill: int | Sequence[int] = 0) -> None:
        self.size = height_width(size)
        self.fill = fill

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image at exactly the size."""
        height, width = self.size
        if width > image.width or height > image.height:
            image = _pad(image, max(0, height - image.height), max(0, width - image.width), self.fill)
        return crop_to(image, centred(image.height, image.width, height, width))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"


class CenterCrop(CenterCropOrPad):
    """Cut the centre out; what lies outside the image is black."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)


def evaluation_steps(
    size: Size, resize_mode: str, interpolation: str, fill: int
) -> list[Callable[[Image.Image], Image.Image]]:
    """The steps that bring an image of any size to `size`.

    Args:
        size: of the result.
        resize_mode: `shortest`, `longest` or `squash`.
        interpolation: resampling filter.
        fill: padding of `longest`, 0 to 255.
    """
    height, width = height_width(size)
    if resize_mode == "longest":
        return [ResizeKeepRatio((height, width), 1.0, interpolation), CenterCropOrPad((height, width), fill)]
    if resize_mode == "squash":
        return [Resize((height, width), interpolation)]
    assert resize_mode == "shortest", resize_mode
    if height == width:
        return [Resize(height, interpolation), CenterCrop((height, width))]
    # For targets that are no squares OpenCLIP does not pass the filter on, and models were evaluated so.
    return [ResizeKeepRatio((height, width)), CenterCrop((height, width))]


def _pad(image: Image.Image, rows: int, columns: int, fill: int | Sequence[int]) -> Image.Image:
    """Add rows and columns around an image, the odd one at the bottom and at the right."""
    border = (columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2)
    channels = len(image.getbands())
    value: int | tuple[int, ...]
    if isinstance(fill, int):
        value = (fill,) * channels if channels > 1 else fill
    else:
        value = tuple(fill) * (channels if len(fill) == 1 else 1)
        if len(value) != channels:
            raise ValueError(f"the fill {fill} has not one value for each of {channels} channels")
    padded = ImageOps.expand(image, border, value)
    palette = image.getpalette() if image.mode == "P" else None
    if palette is not None:
        padded.putpalette(palette)
    return padded
