"""CLIP models whose state dicts equal OpenCLIP's.

Importing this package does not import torch (the command line lists model names); its torch parts load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_trainer.model.config import ClipConfig, TextConfig, VisionConfig, get_config, model_names

if TYPE_CHECKING:
    from clip_trainer.model.clip import CLIP, ClipOutput, SpeedUps
    from clip_trainer.model.factory import create_model
    from clip_trainer.model.precision import Precision, get_precision

_LAZY = {
    "CLIP": "clip",
    "ClipOutput": "clip",
    "Precision": "precision",
    "SpeedUps": "clip",
    "create_model": "factory",
    "get_precision": "precision",
}

__all__ = [
    "CLIP",
    "ClipConfig",
    "ClipOutput",
    "Precision",
    "SpeedUps",
    "TextConfig",
    "VisionConfig",
    "create_model",
    "get_config",
    "get_precision",
    "model_names",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
