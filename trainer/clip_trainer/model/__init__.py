"""CLIP models whose state dicts equal OpenCLIP's.

Importing this package does not import torch (the command line lists model names); its torch parts load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_trainer.model.config import (
    ClipConfig,
    MultimodalConfig,
    TextConfig,
    VisionConfig,
    add_model_config,
    get_config,
    model_names,
    raw_config,
    read_config,
)

if TYPE_CHECKING:
    from clip_trainer.model.clip import CLIP
    from clip_trainer.model.clip_model import ClipModel
    from clip_trainer.model.clip_output import BiasedClipOutput, ClipOutput, SpeedUps
    from clip_trainer.model.custom_text_clip import CustomTextCLIP
    from clip_trainer.model.factory import create_model
    from clip_trainer.model.precision import Precision, get_precision

_LAZY = {
    "CLIP": "clip",
    "BiasedClipOutput": "clip_output",
    "ClipModel": "clip_model",
    "ClipOutput": "clip_output",
    "CustomTextCLIP": "custom_text_clip",
    "Precision": "precision",
    "SpeedUps": "clip_output",
    "create_model": "factory",
    "get_precision": "precision",
}

__all__ = [
    "CLIP",
    "BiasedClipOutput",
    "ClipConfig",
    "ClipModel",
    "ClipOutput",
    "CustomTextCLIP",
    "MultimodalConfig",
    "Precision",
    "SpeedUps",
    "TextConfig",
    "VisionConfig",
    "add_model_config",
    "create_model",
    "get_config",
    "get_precision",
    "model_names",
    "raw_config",
    "read_config",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
