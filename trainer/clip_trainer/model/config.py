"""Model configurations: what a CLIP model looks like, as data.

The JSON files in `configs/` use OpenCLIP's layout (`embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`), so a file
moves between the two projects unchanged. This module does not import torch: the command line reads it too.
"""

from __future__ import annotations

import difflib
import json
import math
from functools import cache, lru_cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipctl.contract.errors import SpecError

INIT_LOGIT_SCALE = math.log(1 / 0.07)
"""Initial log temperature of the CLIP paper (arXiv 2103.00020, section 2.5)."""

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class VisionConfig(BaseModel):
    """A vision transformer tower (ViT) over square images."""

    model_config = _STRICT

    image_size: int = Field(224, gt=0)
    """Side of the input image, pixels."""
    patch_size: int = Field(16, gt=0)
    """Side of one patch, pixels; must divide `image_size`."""
    width: int = Field(768, gt=0)
    """Width of the residual stream."""
    layers: int = Field(12, gt=0)
    """Number of residual blocks."""
    head_width: int = Field(64, gt=0)
    """Width of one attention head; must divide `width`."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of the MLP divided by `width`."""

    @model_validator(mode="after")
    def _divides(self) -> VisionConfig:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.head_width:
            raise ValueError(f"head_width {self.head_width} does not divide width {self.width}")
        return self

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_width

    @property
    def patches(self) -> int:
        """Number of patches of one image (the class token comes on top)."""
        return (self.image_size // self.patch_size) ** 2


class TextConfig(BaseModel):
    """A causal text transformer tower, pooled at the end-of-text token."""

    model_config = _STRICT

    context_length: int = Field(77, gt=2)
    """Longest token sequence, start and end tokens included."""
    vocab_size: int = Field(49408, gt=2)
    """Number of token ids."""
    width: int = Field(512, gt=0)
    """Width of the residual stream."""
    heads: int = Field(8, gt=0)
    """Number of attention heads; must divide `width`."""
    layers: int = Field(12, gt=0)
    """Number of residual blocks."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of the MLP divided by `width`."""

    @model_validator(mode="after")
    def _divides(self) -> TextConfig:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class ClipConfig(BaseModel):
    """Both towers and what joins them."""

    model_config = _STRICT

    embed_dim: int = Field(gt=0)
    """Width of the shared embedding space."""
    vision: VisionConfig = Field(alias="vision_cfg")
    """The image tower."""
    text: TextConfig = Field(alias="text_cfg")
    """The text tower."""
    quick_gelu: bool = False
    """Use x * sigmoid(1.702 x) in place of GELU, as the weights published by OpenAI need."""
    init_logit_scale: float = INIT_LOGIT_SCALE
    """Initial value of the (log) `logit_scale` parameter."""

    @classmethod
    def from_dict(cls, data: object, source: str) -> ClipConfig:
        """Read a configuration in OpenCLIP's JSON layout.

        Args:
            data: the decoded JSON.
            source: what to call it in an error (a name or a path).

        Raises:
            SpecError: a field is unknown, missing or wrong; every problem is named.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in item['loc']) or 'config'}: {item['msg']}" for item in error.errors()
            ]
            raise SpecError(
                f"Model configuration {source} is wrong: " + "; ".join(lines) + ".",
                hint="It must follow OpenCLIP's model configuration format, limited to ViT + text transformer.",
            ) from None

    def to_dict(self) -> dict[str, object]:
        """The configuration in OpenCLIP's JSON layout, without fields that hold their default.

        The sizes of both towers are always written: OpenCLIP's defaults could differ from ours one day.
        """
        data: dict[str, object] = {
            "embed_dim": self.embed_dim,
            "vision_cfg": self.vision.model_dump(),
            "text_cfg": self.text.model_dump(),
        }
        if self.quick_gelu:
            data["quick_gelu"] = True
        if self.init_logit_scale != INIT_LOGIT_SCALE:
            data["init_logit_scale"] = self.init_logit_scale
        return data


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Names of the built-in configurations, sorted."""
    folder = resources.files(__package__).joinpath("configs")
    return tuple(sorted(entry.name[: -len(".json")] for entry in folder.iterdir() if entry.name.endswith(".json")))


@cache
def get_config(name: str) -> ClipConfig:
    """The built-in configuration called `name` (a `/` counts as `-`: `ViT-B/32`).

    Raises:
        SpecError: no such name; the nearest one is suggested.
    """
    canonical = name.replace("/", "-")
    if canonical not in model_names():
        near = difflib.get_close_matches(canonical, model_names(), n=1, cutoff=0.4)
        suggestion = f"Did you mean {near[0]}? " if near else ""
        raise SpecError(f"There is no model called {name!r}.", hint=f"{suggestion}Known: {', '.join(model_names())}.")
    text = resources.files(__package__).joinpath("configs", f"{canonical}.json").read_text(encoding="utf-8")
    return ClipConfig.from_dict(json.loads(text), canonical)
