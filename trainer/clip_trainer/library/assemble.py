"""A model from its source: configuration with overrides, modules, weights, preprocessing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clip_trainer.library.attached import set_model_preprocess_cfg
from clip_trainer.library.source import Source
from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.clip_output import SpeedUps
from clip_trainer.model.config import ClipConfig
from clip_trainer.model.factory import create_model
from clip_trainer.vision.preprocess import merge_preprocess_dict
from clip_trainer.weights.activation import check_activation
from clip_trainer.weights.load import load_file

ImageSize = int | tuple[int, int]


@dataclass(frozen=True)
class Overrides:
    """What a user may change of a model's configuration. None: as it is."""

    quick_gelu: bool | None = None
    """Activation; a value also silences the check against the weights'."""
    custom_text: bool = False
    """Build the text tower as a module of its own."""
    patch_dropout: float | None = None
    """Share of patches left out in training."""
    image_size: ImageSize | None = None
    """Input size; position embeddings of the weights are resized."""
    context_length: int | None = None
    """Longest token sequence; position embeddings of the weights are resized."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the preprocessing."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Other top-level fields of the configuration, applied last."""

    @property
    def activation_chosen(self) -> bool:
        """Whether the user decided about the activation."""
        return self.quick_gelu is not None or "quick_gelu" in self.fields


def configure(source: Source, overrides: Overrides) -> ClipConfig:
    """The configuration of a model with the user's changes.

    Raises:
        SpecError: it cannot be built.
    """
    config = copy.deepcopy(source.config)
    changes = {
        ("vision_cfg", "patch_dropout"): overrides.patch_dropout,
        ("vision_cfg", "image_size"): overrides.image_size,
        ("text_cfg", "context_length"): overrides.context_length,
    }
    for (section, name), value in changes.items():
        if value is not None:
            config[section][name] = value
    if overrides.quick_gelu is not None:
        config["quick_gelu"] = overrides.quick_gelu
    if overrides.custom_text:
        config["custom_text"] = True
    return ClipConfig.from_dict(config | dict(overrides.fields), source.name)


@dataclass(frozen=True)
class Start:
    """What the weights of a model start from."""

    seed: int = 0
    """Of fresh weights."""
    pretrained_image: bool = False
    """Take timm's own weights for a timm image tower."""
    pretrained_text: bool = False
    """Take the published weights of a Hugging Face text tower."""


def build(
    source: Source,
    overrides: Overrides,
    start: Start,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    speed_ups: SpeedUps | None = None,
) -> ClipModel:
    """The model with fresh weights. Load others into it with `load`, then call `complete`.

    Raises:
        SpecError: it cannot be built.
    """
    return create_model(
        configure(source, overrides),
        precision,
        start.seed,
        device=device,
        speed_ups=speed_ups,
        pretrained_image=start.pretrained_image,
        pretrained_text=start.pretrained_text,
    )


def load(model: ClipModel, source: Source, overrides: Overrides, path: str | Path) -> None:
    """Load the weights of `source`, which are in the file `path`, into a model built from it.

    Raises:
        ActivationMismatch: they were made with the other activation, and the user did not choose one.
        WeightsMismatch: they do not fit.
        CorruptError: the file is damaged or not safe to read.
    """
    check = not overrides.activation_chosen
    if check:
        label = source.name if source.weights in (None, source.name) else f"{source.name} {source.weights}"
        check_activation(source.quick_gelu, model.config, label)
    # The registry knows better than a file: published files rarely say anything.
    load_file(model, path, check_quick_gelu=check and source.quick_gelu is None)


def complete(model: ClipModel, source: Source, overrides: Overrides) -> None:
    """What comes after the weights: another input size of a timm tower, and how images are prepared."""
    tower: Any = model.visual
    if overrides.image_size is not None and model.config.vision.kind == "timm":
        tower.set_input_size(overrides.image_size)  # resizes the positions that were just loaded
    size = getattr(tower, "image_size", source.preprocess["size"])
    set_model_preprocess_cfg(model, merge_preprocess_dict({**source.preprocess, "size": size}, overrides.preprocess))
