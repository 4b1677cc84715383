"""Making images smaller once, when they are packed, instead of in every epoch.

What is kept is what training would see: the pixels of `Image.convert("RGB")`, as OpenCLIP decodes them. So EXIF
orientation is not applied, alpha is dropped, the palette is resolved, and of an animation the first frame counts.
EXIF data and colour profiles are not copied: nothing can turn or tint the smaller image afterwards.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal

from clipctl.contract.errors import SpecError

ResizeMode = Literal["shortest", "longest", "crop"]

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: Pillow's threshold for a decompression bomb, and training's."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class Undecodable(ValueError):
    """The bytes are no image that can (or may) be decoded. Args: a reason of few words."""


@dataclass(frozen=True)
class Resize:
    """How images are made smaller; none is ever made larger.

    Attributes:
        size: pixels.
        mode: "shortest" brings the shorter side to `size`, "longest" the longer one; "crop" is "shortest", then the
            middle `size` by `size`.
        quality: of the JPEG that is written.
    """

    size: int
    mode: ResizeMode = "shortest"
    quality: int = 95

    def shrinks(self, width: int, height: int) -> bool:
        """Whether an image is too large; one that is not stays byte for byte as it is."""
        return (min if self.mode == "shortest" else max)(width, height) > self.size

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before any cropping: at least one pixel, never more than there are."""
        side = max(width, height) if self.mode == "longest" else min(width, height)
        scale = min(1.0, self.size / side)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def apply(self, data: bytes) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
        """Decode, shrink and encode.

        Returns:
            The JPEG, its width and height, and those of the original.

        Raises:
            Undecodable: damaged, an unknown format, or too large.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                original = image.size
                if original[0] * original[1] > MAX_PIXELS:
                    raise Undecodable("too many pixels")
                # A JPEG many times too large is decoded at a half, a quarter or an eighth, at least twice as large as
                # needed: half the time, and a tenth of the difference that encoding it again makes.
                width, height = self.scaled(*original)
                image.draft(None, (2 * width, 2 * height))
                small = self._shrunk(image.convert("RGB"), (width, height))
        except (Undecodable, Image.DecompressionBombError) as error:
            raise Undecodable("too many pixels") from error
        except Exception as error:
            # Pillow's readers raise nearly anything on damaged files (OSError, SyntaxError, struct.error, ...).
            raise Undecodable("cannot be decoded") from error
        encoded = io.BytesIO()
        small.save(encoded, "JPEG", quality=self.quality)
        return encoded.getvalue(), small.size, original

    def options(self) -> dict[str, Any]:
        """What decides the bytes: also the versions of the libraries that encode."""
        import PIL
        from PIL import features

        jpeg = features.version("libjpeg_turbo") or features.version("jpg")
        encoder = f"Pillow {PIL.__version__}, libjpeg {jpeg}"
        return {"size": self.size, "mode": self.mode, "quality": self.quality, "encoder": encoder}

    def _shrunk(self, image: Any, size: tuple[int, int]) -> Any:
        from PIL import Image

        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        if self.mode == "crop":
            width, height = (min(side, self.size) for side in size)
            left, top = (size[0] - width) // 2, (size[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
        return image


def prepare_pillow() -> None:
    """Load Pillow, before threads use it. Raises SpecError if it is not installed.

    Pillow's warnings about odd metadata are switched off: the pixels count here. One filter for the process, because
    `warnings.catch_warnings` is not safe in threads.
    """
    try:
        import PIL.Image  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SpecError("--resize needs Pillow.", hint="Run `pip install pillow`.") from error

    warnings.filterwarnings("ignore", module=r"PIL\.")
