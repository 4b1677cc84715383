"""What a model carries along besides its weights: how to prepare its images, and what its tokenizer must give."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn


def get_model_preprocess_cfg(model: nn.Module) -> dict[str, Any]:
    """How images for the model are prepared; from the separate attributes of older models if need be."""
    module: Any = getattr(model, "visual", model)
    attached: dict[str, Any] = getattr(module, "preprocess_cfg", {})
    if attached:
        return attached
    separate = {"size": "image_size", "mean": "image_mean", "std": "image_std"}
    found = {key: getattr(module, attribute, None) for key, attribute in separate.items()}
    return {key: value for key, value in found.items() if value is not None}


def set_model_preprocess_cfg(model: nn.Module, preprocess_cfg: Mapping[str, Any]) -> None:
    """Attach how images for the model are prepared to its image tower (`preprocess_cfg`, `image_mean`, `image_std`)."""
    module: Any = getattr(model, "visual", model)
    module.image_mean = preprocess_cfg["mean"]
    module.image_std = preprocess_cfg["std"]
    module.preprocess_cfg = copy.deepcopy(dict(preprocess_cfg))


def get_model_tokenize_cfg(model: nn.Module) -> dict[str, Any]:
    """`context_length` and `vocab_size` of the text tower, as far as it has them."""
    module: Any = getattr(model, "text", model)
    found = {name: getattr(module, name, None) for name in ("context_length", "vocab_size")}
    return {name: value for name, value in found.items() if value is not None}
