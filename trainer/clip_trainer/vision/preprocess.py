"""How images become model input, as data (the `preprocess_cfg` of OpenCLIP's configuration file). No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the red, green and blue channels (0 to 1) that CLIP models are trained with."""
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of the same."""

RESIZE_MODES = ("shortest", "longest", "squash")
"""Scale the shorter side and cut; scale the longer side and pad; ignore the aspect ratio."""


@dataclass(frozen=True)
class Preprocess:
    """Normalisation and resizing of evaluation images."""

    mean: tuple[float, ...] = OPENAI_MEAN
    """Per-channel mean, subtracted after scaling to 0..1."""
    std: tuple[float, ...] = OPENAI_STD
    """Per-channel standard deviation, divided by."""
    interpolation: str = "bicubic"
    """Resampling filter: bicubic or bilinear."""
    resize_mode: str = "shortest"
    """One of `RESIZE_MODES`."""
    fill_color: int = 0
    """What mode `longest` pads with, 0 to 255."""

    def overlaid(self, overlay: Mapping[str, Any]) -> Preprocess:
        """With the values of `overlay` that are not None; keys that are no fields here are passed over."""
        known = {field.name for field in fields(self)}
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in overlay.items()
            if key in known and value is not None
        }
        return replace(self, **given)

    def to_dict(self) -> dict[str, object]:
        """As `preprocess_cfg` has it."""
        data = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if not self.fill_color:
            del data["fill_color"]
        return data


OPENAI_PREPROCESS = Preprocess()
"""The default of OpenCLIP and ours."""


@dataclass
class PreprocessCfg:
    """OpenCLIP's description of preprocessing, with its size.

    Raises:
        ValueError: `mode` is not RGB.
    """

    size: int | tuple[int, int] = 224
    """Side, or height and width, of the model's input in pixels."""
    mode: str = "RGB"
    """Only RGB."""
    mean: tuple[float, ...] = OPENAI_MEAN
    """Per-channel mean, 0 to 1."""
    std: tuple[float, ...] = OPENAI_STD
    """Per-channel standard deviation."""
    interpolation: str = "bicubic"
    """Resampling filter: bicubic or bilinear."""
    resize_mode: str = "shortest"
    """One of `RESIZE_MODES`."""
    fill_color: int = 0
    """What mode `longest` pads with, 0 to 255."""

    def __post_init__(self) -> None:
        if self.mode != "RGB":
            raise ValueError(f"the mode of model input is RGB, not {self.mode}")

    @property
    def num_channels(self) -> int:
        """Three."""
        return 3

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        height, width = self.size if isinstance(self.size, (tuple, list)) else (self.size, self.size)
        return self.num_channels, height, width


def merge_preprocess_dict(base: PreprocessCfg | Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `PreprocessCfg` from `base`, replaced by those of `overlay` that are not None."""
    known = {field.name for field in fields(PreprocessCfg)}
    start = asdict(base) if isinstance(base, PreprocessCfg) else base
    merged = {key: value for key, value in start.items() if key in known}
    merged.update({key: value for key, value in (overlay or {}).items() if key in known and value is not None})
    return merged


def merge_preprocess_kwargs(base: PreprocessCfg, **overlay: Any) -> dict[str, Any]:
    """`merge_preprocess_dict` with keyword arguments."""
    return merge_preprocess_dict(base, overlay)


@dataclass
class AugmentationCfg:
    """OpenCLIP's description of training augmentation."""

    scale: tuple[float, float] = (0.9, 1.0)
    """Least and greatest share of the image's area that is cut out."""
    ratio: tuple[float, float] | None = None
    """Least and greatest aspect ratio of the cut; used with `use_timm`."""
    color_jitter: float | tuple[float, ...] | None = None
    """Strengths of brightness, contrast, saturation and hue; with `use_timm` one number for the first three too."""
    re_prob: float | None = None
    """Share of images with erased rectangles; used with `use_timm`."""
    re_count: int | None = None
    """Most rectangles in such an image; used with `use_timm`."""
    use_timm: bool = False
    """Augment as timm's `create_transform` does."""
    color_jitter_prob: float | None = None
    """Share of images whose colours are changed; not used with `use_timm`."""
    gray_scale_prob: float | None = None
    """Share of images turned to gray; not used with `use_timm`."""
