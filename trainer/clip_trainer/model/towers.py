"""Which implementation builds which tower or model. Those with their own libraries are imported only when needed.

A tower is a module with `image_size`/`context_length`, `forward`, `forward_intermediates`, `lock`, `layer_groups`,
`set_grad_checkpointing`, `no_weight_decay`, and optionally

* `init_parameters(streams, prefix)`: fill what has other initial values than torch's (see `clip_trainer.model.init`);
* `materialise(seed, pretrained=...)`: replace parts made by a library by real ones on the CPU (the model is built on
  the meta device first);
* `set_patch_dropout(rate)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

from clip_trainer.model.clip_output import SpeedUps
from clip_trainer.model.config import ClipConfig

if TYPE_CHECKING:
    from clip_trainer.model.clip_model import ClipModel

_MODELS = {"clip": "clip.CLIP", "custom_text": "custom_text_clip.CustomTextCLIP", "coca": "coca.CoCa"}
_LIBRARY_TOWERS = {
    "resnet": "modified_resnet.ModifiedResNet",
    "timm": "timm_vision.TimmVision",
    "hf": "hf_text.HFTextTower",
}


def build_model(config: ClipConfig, speed_ups: SpeedUps) -> ClipModel:
    """The model of a configuration, its parameters not filled (build it on the meta device)."""
    model: ClipModel = _find(_MODELS[config.kind])(config, speed_ups)
    return model


def build_vision(config: ClipConfig, speed_ups: SpeedUps) -> nn.Module:
    """The image tower of a configuration."""
    tower: nn.Module
    if config.vision.kind != "vit":
        tower = _find(_LIBRARY_TOWERS[config.vision.kind])(config.vision, config.embed_dim)
        return tower
    tower = _find("vit.VisionTransformer")(
        config.vision,
        config.embed_dim,
        quick_gelu=config.quick_gelu,
        pooled_last_block=speed_ups.pooled_last_block,
    )
    return tower


def build_text(config: ClipConfig, speed_ups: SpeedUps) -> nn.Module:
    """The text tower of a configuration, as a module of its own."""
    tower: nn.Module
    if config.text.kind == "hf":
        tower = _find(_LIBRARY_TOWERS["hf"])(config.text, config.embed_dim)
        return tower
    tower = _find("text_transformer.TextTransformer")(
        config.text,
        config.embed_dim,
        quick_gelu=config.quick_gelu,
        pooled_last_block=speed_ups.pooled_last_block,
    )
    return tower


def _find(path: str) -> Any:
    module, name = path.split(".")
    return getattr(import_module(f"{__package__}.{module}"), name)
