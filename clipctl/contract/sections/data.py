"""Where the training samples are, and how images are augmented."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from clipctl.contract.sections.base import Fraction, Location, NonNegativeFloat, PositiveFloat, PositiveInt, Section

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
MAX_HUE = 0.5
"""Half of the colour circle; more would come round again."""
_PAIR = Field(min_length=2, max_length=2, strict=False)


class AugmentSection(Section):
    """How training images are varied. Every draw is keyed by the sample, never by worker or time."""

    scale: Annotated[tuple[UnitInterval, ...], _PAIR] = (0.9, 1.0)
    """Least and greatest share of the image's area that is cut out. Default 0.9 to 1, OpenCLIP's."""

    ratio: Annotated[tuple[PositiveFloat, ...], _PAIR] = (3 / 4, 4 / 3)
    """Least and greatest aspect ratio of the crop. Default 3/4 to 4/3."""

    color_jitter: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=4, max_length=4, strict=False)] | None = None
    """Strength of the change of brightness, contrast, saturation and hue. Default: none."""

    color_jitter_prob: Probability = 0.0
    """Share of images whose colours are changed. Default 0."""

    gray_scale_prob: Probability = 0.0
    """Share of images turned to gray. Default 0."""

    flip_prob: Probability = 0.0
    """Share of images mirrored. Default 0: captions may say left and right."""

    erase_prob: Probability = 0.0
    """Share of images of which a rectangle is overwritten with noise (arXiv 1708.04896). Default 0."""

    erase_count: PositiveInt = 1
    """Most rectangles overwritten in such an image; their number is drawn. Default 1."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSection:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"augment.{name}: {low} is greater than {high}")
        if (self.color_jitter is None) == (self.color_jitter_prob > 0):
            raise ValueError("augment.color_jitter and augment.color_jitter_prob need each other")
        if self.color_jitter is not None and self.color_jitter[3] > MAX_HUE:
            raise ValueError(f"augment.color_jitter: the hue, {self.color_jitter[3]}, is at most {MAX_HUE}")
        return self


class DataSection(Section):
    """Where the training samples are and in which order they are read."""

    train: Location
    """Shards with an index: a directory or URL prefix that holds `index.json`, a brace pattern such as
    `s3://bucket/shard-{000000..000099}.tar`, or one `.tar`. On Kubernetes it must be a URL or an absolute path of a
    mounted volume."""

    lanes: PositiveInt | None = None
    """Number of virtual lanes the sample order is cut into; must divide `train.global_batch` and be at least the
    number of ranks. Default: the largest divisor of the global batch up to max(64, ranks). Part of the run's
    identity: changing it changes the sample order."""

    shuffle_block: PositiveInt = 1024
    """Samples that are shuffled among each other inside a lane, on top of the shuffle of whole shards. Default 1024:
    well mixed, while reads inside a shard stay close together."""

    threads: PositiveInt = 2
    """Decoder threads per rank. Default 2; decoding releases the GIL, so threads scale to the cores of the pod."""

    prefetch_batches: PositiveInt = 2
    """Batches decoded ahead per rank. Default 2: hides one slow read without holding much memory."""

    max_pixels: PositiveInt = 64_000_000
    """Images with more pixels are replaced before they are decoded. Default 64 million: above it lie decompression
    bombs."""

    max_replaced: Fraction = 0.01
    """Share of samples that may be undecodable before the run stops with exit code 65. Default 0.01: web data always
    has some; more means that something is wrong with the data set."""

    augment: AugmentSection = AugmentSection()
    """How training images are varied."""
