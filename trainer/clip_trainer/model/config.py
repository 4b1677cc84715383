"""Model configurations: what a CLIP model looks like, as data.

They use OpenCLIP's layout (`embed_dim`, `vision_cfg`, `text_cfg`, ...), so a file moves between the two projects
unchanged. Nothing here imports torch: the command line reads it too.
"""

from __future__ import annotations

from clip_trainer.model.config_catalogue import add_model_config, get_config, model_names, raw_config, read_config
from clip_trainer.model.config_clip import INIT_LOGIT_SCALE, ClipConfig
from clip_trainer.model.config_text import MultimodalConfig, TextConfig
from clip_trainer.model.config_vision import ActKwargs, BlockConfig, NormKwargs, VisionConfig

__all__ = [
    "INIT_LOGIT_SCALE",
    "ActKwargs",
    "BlockConfig",
    "ClipConfig",
    "MultimodalConfig",
    "NormKwargs",
    "TextConfig",
    "VisionConfig",
    "add_model_config",
    "get_config",
    "model_names",
    "raw_config",
    "read_config",
]
