"""How images become model input, as data (the `preprocess_cfg` of OpenCLIP's configuration file)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the red, green and blue channels (0 to 1) that CLIP models are trained with."""
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of the same."""


@dataclass(frozen=True)
class Preprocess:
    """Normalisation and resizing of evaluation images."""

    mean: tuple[float, float, float] = OPENAI_MEAN
    """Per-channel mean, subtracted after scaling to 0..1."""
    std: tuple[float, float, float] = OPENAI_STD
    """Per-channel standard deviation, divided by."""
    interpolation: str = "bicubic"
    """Resampling filter."""
    resize_mode: str = "shortest"
    """Scale the shorter side to the image size, then cut the centre."""

    def to_dict(self) -> dict[str, object]:
        """As `preprocess_cfg` has it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


OPENAI_PREPROCESS = Preprocess()
"""The default of OpenCLIP and ours."""
