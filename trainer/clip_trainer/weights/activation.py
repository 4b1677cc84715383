"""Weights know which activation they were trained with; running them with the other one silently costs accuracy.

QuickGELU (x sigmoid(1.702 x)) and GELU have no parameters, so every other check passes. What we write records the
choice, and what we read is compared with the model: OpenCLIP only warns, and only for tags of its registry.
"""

from __future__ import annotations

import json
from pathlib import Path

from clip_trainer.model.config import ClipConfig
from clipctl.contract.errors import CorruptError

METADATA_KEY = "quick_gelu"
"""Name of the entry in the metadata of safetensors files and in training checkpoints."""
CONFIG_FILE = "open_clip_config.json"


class ActivationMismatch(CorruptError, RuntimeError):
    """The weights were trained with another activation than the model has."""


def check_activation(recorded: bool | None, config: ClipConfig, source: str) -> None:
    """Refuse weights made with the other activation.

    Args:
        recorded: whether the weights were made with QuickGELU; None: not known, which passes.
        config: of the model they are for.
        source: what to call the weights in the error.

    Raises:
        ActivationMismatch: they differ, and the model has a tower that depends on it.
    """
    if recorded is None or recorded == config.quick_gelu or not depends_on_activation(config):
        return
    theirs, ours = ("QuickGELU", "GELU") if recorded else ("GELU", "QuickGELU")
    if recorded:
        remedy = "Take the model's -quickgelu name, or set force_quick_gelu=True (run.yaml: model.quick_gelu: true)."
    else:
        remedy = "Take the name without -quickgelu, or set quick_gelu=False (run.yaml: model.quick_gelu: false)."
    raise ActivationMismatch(
        f"{source} was trained with {theirs}, the model uses {ours}: its accuracy would silently drop.",
        hint=remedy,
    )


def depends_on_activation(config: ClipConfig) -> bool:
    """Whether a tower is our own transformer. timm and Hugging Face towers bring their activation along; a ResNet has
    none of the two, its text tower has.
    """
    return config.vision.kind == "vit" or config.text.kind == "native"


def recorded_beside(path: str | Path) -> bool | None:
    """What an `open_clip_config.json` in the folder of a weights file says; None if there is none that says it."""
    try:
        content = json.loads((Path(path).parent / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    model = content.get("model_cfg") if isinstance(content, dict) else None
    return bool(model.get("quick_gelu", False)) if isinstance(model, dict) else None
