"""A whole model as data: both towers and what joins them."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from clip_trainer.model.config_text import MultimodalConfig, TextConfig
from clip_trainer.model.config_vision import STRICT, VisionConfig
from clipctl.contract.errors import SpecError

INIT_LOGIT_SCALE = math.log(1 / 0.07)
"""Initial log temperature of the CLIP paper (arXiv 2103.00020, section 2.5)."""

_VISION_SIZES = ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio")
_TEXT_SIZES = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")


class ClipConfig(BaseModel):
    """Both towers and what joins them, in OpenCLIP's JSON layout (`vision_cfg`, `text_cfg`, `multimodal_cfg`)."""

    model_config = STRICT

    embed_dim: int = Field(gt=0)
    """Width of the shared embedding space."""
    vision: VisionConfig = Field(alias="vision_cfg")
    """The image tower."""
    text: TextConfig = Field(alias="text_cfg")
    """The text tower."""
    multimodal: MultimodalConfig | None = Field(None, alias="multimodal_cfg")
    """The caption decoder, which makes the model a CoCa."""
    quick_gelu: bool = False
    """Use x * sigmoid(1.702 x) in place of GELU, as the weights published by OpenAI need."""
    custom_text: bool = False
    """Keep the text tower as a module of its own: its keys begin with `text.`."""
    init_logit_scale: float = INIT_LOGIT_SCALE
    """Initial value of the (log) `logit_scale` parameter."""
    init_logit_bias: float | None = None
    """Initial value of the `logit_bias` parameter; None means that there is none."""
    nonscalar_logit_scale: bool = False
    """Store `logit_scale` (and `logit_bias`) with shape [1] in place of []."""

    @property
    def kind(self) -> Literal["clip", "custom_text", "coca"]:
        """Which class the model is of: the rule of OpenCLIP's `create_model`."""
        if not (self.custom_text or self.text.kind == "hf"):
            return "clip"
        return "coca" if self.multimodal is not None else "custom_text"

    @model_validator(mode="after")
    def _joins(self) -> ClipConfig:
        if self.kind == "clip" and self.multimodal is not None:
            raise ValueError("multimodal_cfg needs custom_text")
        if self.kind == "clip" and self.text.embed_cls:
            raise ValueError("embed_cls needs custom_text")
        if isinstance(self.vision.attentional_pool, str) and self.vision.width != self.embed_dim:
            pool = self.vision.attentional_pool
            raise ValueError(f"attentional_pool {pool} needs a vision width equal to embed_dim")
        return self

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
                hint="It must follow the model configuration format of OpenCLIP 3.3.0.",
            ) from None

    def to_dict(self) -> dict[str, object]:
        """The configuration in OpenCLIP's JSON layout, without fields that hold their default.

        The sizes of both towers are always written: OpenCLIP's defaults could differ from ours one day.
        """
        data: dict[str, Any] = self.model_dump(by_alias=True, mode="json", exclude_defaults=True)
        complete = self.model_dump(by_alias=True, mode="json")
        vision_sizes = ("image_size",) if self.vision.kind == "timm" else _VISION_SIZES
        text_sizes = ("context_length", "vocab_size") if self.text.kind == "hf" else _TEXT_SIZES
        for section, names in (("vision_cfg", vision_sizes), ("text_cfg", text_sizes)):
            data[section] = {name: complete[section][name] for name in names} | data.get(section, {})
        return data
