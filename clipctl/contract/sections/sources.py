"""What `data.train` may name, and how often its sources are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from clipctl.contract.sections.base import Location, PositiveFloat, PositiveInt, Quantity, Section

TABLES = {".csv": ",", ".tsv": "\t", ".parquet": None}
"""Endings of tables of image-caption pairs, and what separates their cells."""

SYNTHETIC = "synthetic:"
PIPE = "pipe:"
SEPARATOR = "::"
"""Between the sources of one location, as OpenCLIP writes it."""

IndexName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
CaptionKey = Annotated[str, StringConstraints(pattern=r"^(txt|json\.[A-Za-z0-9_.-]+)$", max_length=128)]


class SourceSection(Section):
    """One of several sources of training samples."""

    url: Location
    """Where its samples are, as for `data.train`."""

    weight: PositiveFloat = 1.0
    """How often it is drawn; what a weight belongs to is `data.resample.weight_by`. Default 1."""

    index: IndexName | None = None
    """Name of the index to use. Default: `data.index`."""


class ResampleSection(Section):
    """Draw the samples with replacement instead of showing each once an epoch."""

    samples_per_epoch: PositiveInt | None = None
    """Samples of an epoch, which has no other meaning here. Default: as many as there are."""

    weight_by: Literal["sample", "shard", "source"] = "sample"
    """What the weights of the sources belong to. `sample` (default): every sample counts its source's weight, as with
    OpenCLIP's upsampling factors in the long run; `shard`: every shard does, whatever its size; `source`: the weight is
    the source's share of all samples, whatever its size."""


class ColumnsSection(Section):
    """Columns of a table of images and captions; the defaults are OpenCLIP's."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "filepath"
    """Column of the images' paths or URLs. Default `filepath`."""

    caption: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "title"
    """Column of the captions. Default `title`."""

    separator: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """Character between the cells. Default: a comma in `.csv`, a tabulator in `.tsv`."""

    root: Location | None = None
    """Directory or URL that relative image paths start from. Default: where the table is."""


class CacheSection(Section):
    """A disk cache for remote shards."""

    path: Location
    """Directory on a disk of the node, in pods below /tmp or on a mounted volume; ranks of a node share it."""

    size: Quantity = "100Gi"
    """Most bytes it may hold; what was not used for longest goes first. Default 100Gi."""


def is_table(url: str) -> bool:
    """Whether a location is a table of image-caption pairs."""
    return url.lower().endswith(tuple(TABLES))


def is_synthetic(url: str) -> bool:
    """Whether a location stands for made-up samples."""
    return url.startswith(SYNTHETIC)


def check_source(source: SourceSection, allow_pipe: bool) -> None:
    """Refuse what a source cannot be. Raises ValueError.

    Args:
        source: the source.
        allow_pipe: whether commands may be run.
    """
    url = source.url
    if is_synthetic(url) and not url.removeprefix(SYNTHETIC).isdecimal():
        raise ValueError(f"train is {url!r} and should say how many samples, as synthetic:10000")
    if url.startswith(PIPE) and not allow_pipe:
        raise ValueError("train runs a command (pipe:): give the URL, or set data.allow_pipe to true")
    if source.index is not None and (is_table(url) or is_synthetic(url)):
        raise ValueError(f"index is for shards: {url} has none")
