"""What the training minimises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from clipctl.contract.sections.base import Location, NonNegativeFloat, Section


class DistillSection(Section):
    """A teacher whose similarities the model learns as well."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Model name of the teacher. It sees the same images and tokens as the student, so image size, context length and
    tokenizer must be the same."""

    pretrained: Location
    """Its weights: a tag, a file or a URL."""


class LossSection(Section):
    """The loss; exact over the whole global batch for any number of ranks and any micro-batch."""

    kind: Literal["auto", "clip", "siglip", "coca"] = "auto"
    """`clip`: softmax over the batch; `siglip`: sigmoid of each pair; `coca`: softmax and captions. Default `auto`:
    `coca` for CoCa models, otherwise `clip`."""

    contrastive_weight: NonNegativeFloat = 1.0
    """Weight of the contrastive part; 0 leaves it out. Default 1."""

    caption_weight: NonNegativeFloat = 2.0
    """CoCa: weight of the captioning part. Default 2."""

    distill: DistillSection | None = None
    """Learn from a teacher as well. Default: no teacher."""
