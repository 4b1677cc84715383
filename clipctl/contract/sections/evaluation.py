"""What to measure on held-out data, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from clipctl.contract.sections.base import DnsLabel, Location, PositiveFloat, PositiveInt, Section
from clipctl.contract.sections.sources import ColumnsSection

JsonFile = Annotated[Location, StringConstraints(pattern=r"^[^\x00-\x1f]+\.json$")]
"""Path or URL of a JSON file."""
Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class EverySection(Section):
    """When to evaluate before the end. Several may be given."""

    steps: PositiveInt | None = None
    """Optimiser steps between evaluations."""

    epochs: PositiveFloat | None = None
    """Epochs between evaluations."""

    seconds: PositiveInt | None = None
    """Seconds of training between evaluations."""


class ZeroShotSection(Section):
    """Zero-shot classification on a labelled data set."""

    data: Location | None = None
    """Shards whose samples have a `cls` member (class number as text). Give this or `folder`."""

    folder: Location | None = None
    """Directory with one sub-directory of images for each class. Sub-directories in sorted order are the classes, or,
    where all names are numbers (ImageNet-V2), the class numbers themselves."""

    classes: Names | Literal["imagenet"] | JsonFile
    """Class names in the order of the class numbers; or `imagenet`; or a JSON file with a list of names (any
    language)."""

    templates: Names | Literal["imagenet", "simple"] | JsonFile = ("a photo of a {}.",)
    """Prompts with `{}` for the class name, over whose embeddings is averaged; or `imagenet` (the 80 of the CLIP
    paper) or `simple` (7 of them); or a JSON file with a list."""

    every: EverySection | None = None
    """When to run this one before the end. Default: as `eval.every_steps`."""

    @field_validator("classes")
    @classmethod
    def _several(cls, classes: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if isinstance(classes, tuple) and len(classes) < 2:
            raise ValueError("needs at least 2 names")
        return classes

    @field_validator("templates")
    @classmethod
    def _has_placeholder(cls, templates: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for template in templates if isinstance(templates, tuple) else ():
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} for the class name")
        return templates

    @model_validator(mode="after")
    def _one_source(self) -> ZeroShotSection:
        if (self.data is None) == (self.folder is None):
            raise ValueError("give exactly one of zero_shot.data and zero_shot.folder")
        return self


class RetrievalSection(Section):
    """Image-text retrieval and validation loss on a held-out data set."""

    data: Location
    """Shards with images and captions, or a table (`.csv`, `.tsv`, `.parquet`); ranks and recall at 1, 5 and 10 are
    reported both ways. Several sources as `a::b`."""

    columns: ColumnsSection | None = None
    """Columns of a table. Default: OpenCLIP's names, `filepath` and `title`."""

    captions: Literal["all", "first"] = "all"
    """Of an image with several captions, rank all of them (default; a hit is any of them), or the first only."""

    loss_batch: PositiveInt = 64
    """Pairs the validation loss contrasts with each other; its value depends on it. Default 64, OpenCLIP's batch."""

    every: EverySection | None = None
    """When to run this before the end. Default: as `eval.every_steps`."""


class EvalSection(Section):
    """What to measure on held-out data, at the end and on the way."""

    zero_shot: ZeroShotSection | None = None
    """Zero-shot classification; omitted: not run."""

    zero_shot_sets: dict[DnsLabel, ZeroShotSection] = Field(default_factory=dict)
    """Further data sets for zero-shot classification, by the name they have in results and logs."""

    retrieval: RetrievalSection | None = None
    """Retrieval and validation loss; omitted: not run."""

    every_steps: PositiveInt | None = None
    """Also evaluate every this many steps. Default: only at the end."""

    def classification_sets(self) -> dict[str, ZeroShotSection]:
        """All data sets for zero-shot classification: `zero_shot`, then `zero_shot_sets.<name>`."""
        named = {f"zero_shot_sets.{name}": section for name, section in self.zero_shot_sets.items()}
        return named if self.zero_shot is None else {"zero_shot": self.zero_shot, **named}
