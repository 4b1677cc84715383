"""Images: decoding, augmentation, normalisation. `decode`, `geometry` and `preprocess` do not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_trainer.vision.decode import UndecodableImage, decode_image
from clip_trainer.vision.preprocess import OPENAI_MEAN, OPENAI_PREPROCESS, OPENAI_STD, Preprocess

if TYPE_CHECKING:
    from clip_trainer.vision.transform import eval_transform, normalize, train_transform

_LAZY = ("eval_transform", "normalize", "train_transform")

__all__ = [
    "OPENAI_MEAN",
    "OPENAI_PREPROCESS",
    "OPENAI_STD",
    "Preprocess",
    "UndecodableImage",
    "decode_image",
    "eval_transform",
    "normalize",
    "train_transform",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.transform"), name)
