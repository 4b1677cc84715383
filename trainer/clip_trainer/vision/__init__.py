"""Images: decoding, augmentation, normalisation.

`decode`, `geometry`, `preprocess`, `color` and `resizing` do not import torch; the rest is imported when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_trainer.vision.decode import UndecodableImage, decode_image
from clip_trainer.vision.preprocess import (
    OPENAI_MEAN,
    OPENAI_PREPROCESS,
    OPENAI_STD,
    AugmentationCfg,
    Preprocess,
    PreprocessCfg,
    merge_preprocess_dict,
    merge_preprocess_kwargs,
)

if TYPE_CHECKING:
    from clip_trainer.vision.pipeline import image_transform, image_transform_v2
    from clip_trainer.vision.transform import eval_transform, normalize, train_transform
    from clip_trainer.vision.wiring import Transforms, transforms_for

_LAZY = {
    "Transforms": "wiring",
    "eval_transform": "transform",
    "image_transform": "pipeline",
    "image_transform_v2": "pipeline",
    "normalize": "transform",
    "train_transform": "transform",
    "transforms_for": "wiring",
}

__all__ = [
    "OPENAI_MEAN",
    "OPENAI_PREPROCESS",
    "OPENAI_STD",
    "AugmentationCfg",
    "Preprocess",
    "PreprocessCfg",
    "Transforms",
    "UndecodableImage",
    "decode_image",
    "eval_transform",
    "image_transform",
    "image_transform_v2",
    "merge_preprocess_dict",
    "merge_preprocess_kwargs",
    "normalize",
    "train_transform",
    "transforms_for",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
