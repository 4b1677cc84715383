"""Where the training samples are, and how images are augmented."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from clipctl.contract.sections.base import (
    Fraction,
    Location,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Quantity,
    Section,
)
from clipctl.contract.sections.sources import (
    SEPARATOR,
    CacheSection,
    CaptionKey,
    ColumnsSection,
    IndexName,
    ResampleSection,
    SourceSection,
    check_source,
    is_table,
)

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

    train: Location | Annotated[tuple[SourceSection, ...], Field(min_length=1, max_length=1000, strict=False)]
    """Shards with an index: a directory or URL prefix that holds `index.json`, a brace pattern such as
    `s3://bucket/shard-{000000..000099}.tar`, or one `.tar`. Or a table of image-caption pairs (`.csv`, `.tsv`,
    `.parquet`), or `synthetic:N` for N black images. Or several of these: `a::b`, or a list of sources with weights.
    On Kubernetes it must be a URL or an absolute path of a mounted volume."""

    index: IndexName | None = None
    """Name of the index to use, made with `clipctl data index --name`. Default: the one without a name."""

    columns: ColumnsSection | None = None
    """Columns of a table. Default: OpenCLIP's names, `filepath` and `title`."""

    resample: ResampleSection | None = None
    """Draw samples with replacement, by the weights of the sources. Default: every epoch has each sample once."""

    epoch_samples: PositiveInt | None = None
    """Samples that count as an epoch for `train.epochs`, `train.cooldown_epochs` and evaluation, as OpenCLIP's
    `--train-num-samples`; the order of the samples does not change. Default: all samples of the data."""

    captions: dict[CaptionKey, PositiveFloat] | None = Field(default=None, min_length=1)
    """How often each text of a sample is its caption: weights of the member `txt` and of fields of its JSON, such as
    `json.caption`. Each element of a list has the weight of its field; texts that a sample lacks are left out. Default:
    one of `captions` or `caption` of the JSON, else `txt`."""

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

    memory: Quantity = "2Gi"
    """Memory for what is read, decoded and waits for its step, per rank; and as much again for blocks of remote shards.
    Default 2Gi. Less lowers `prefetch_batches`, and makes every remote sample a request of its own."""

    cache: CacheSection | None = None
    """Keep blocks of remote shards on a local disk. Default: no."""

    allow_pipe: bool = False
    """Whether locations may be commands (`pipe:aws s3 cp s3://b/{0..9}.tar -`); they run without a shell. Default
    false: give URLs, which are resumed and checked."""

    stall_seconds: PositiveFloat = 10.0
    """Report what a batch waits for when it takes longer than this. Default 10 seconds."""

    max_pixels: PositiveInt = 64_000_000
    """Images with more pixels are replaced before they are decoded. Default 64 million: above it lie decompression
    bombs."""

    max_replaced: Fraction = 0.01
    """Share of samples that may be undecodable before the run stops with exit code 65. Default 0.01: web data always
    has some; more means that something is wrong with the data set."""

    augment: AugmentSection = AugmentSection()
    """How training images are varied."""

    @property
    def sources(self) -> tuple[SourceSection, ...]:
        """The sources of `train`, in order, each with the index it uses."""
        if isinstance(self.train, str):
            given = tuple(SourceSection.model_construct(url=url) for url in self.train.split(SEPARATOR))
        else:
            given = self.train
        return tuple(
            source.model_copy(update={"index": self.index}) if self.index and not source.index else source
            for source in given
        )

    @model_validator(mode="after")
    def _sources(self) -> DataSection:
        if not all(source.url for source in self.sources):
            raise ValueError(f"train has an empty source: {self.train!r}")
        for source in self.sources:
            check_source(source, self.allow_pipe)
        if self.columns is not None and not any(is_table(source.url) for source in self.sources):
            raise ValueError("columns are for tables (.csv, .tsv, .parquet), and data.train names none")
        return self

    @model_validator(mode="after")
    def _drawing(self) -> DataSection:
        if self.resample is None and any(source.weight != 1 for source in self.sources):
            raise ValueError("weights of train need sampling with replacement: add data.resample")
        if self.resample is not None and self.epoch_samples is not None:
            raise ValueError("epoch_samples is data.resample.samples_per_epoch when samples are drawn: remove it")
        return self
