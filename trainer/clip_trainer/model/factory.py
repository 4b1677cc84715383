"""Build a model from its name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.clip_output import SpeedUps
from clip_trainer.model.config import ClipConfig, get_config
from clip_trainer.model.init import filled_modules, init_parameters
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.precision import cast_parameters, get_precision
from clip_trainer.model.towers import build_model


def create_model(
    name: str | ClipConfig,
    precision: str = "fp32",
    seed: int = 0,
    *,
    device: str | torch.device = "cpu",
    speed_ups: SpeedUps | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = False,
) -> ClipModel:
    """A freshly initialised model in training mode.

    Args:
        name: a built-in name (`clip_trainer.model.config.model_names`) or a configuration.
        precision: a mode of `clip_trainer.model.precision`.
        seed: the weights are a pure function of it, equal on every rank and device.
        device: where to put it; "meta" gives names, shapes and types without memory.
        speed_ups: exact shortcuts to use; all of them if None.
        pretrained_image: start a timm image tower from the weights timm publishes.
        pretrained_text: start a Hugging Face text tower from its published weights.

    Raises:
        SpecError: unknown model or precision.
    """
    config = get_config(name) if isinstance(name, str) else name
    mode = get_precision(precision)
    with torch.device("meta"):
        # Allocate nothing until the final device is known, and skip torch's own initialisation.
        model = build_model(config, speed_ups or SpeedUps())
    if torch.device(device).type != "meta":
        streams = Streams(seed)
        for part, pretrained in (("visual", pretrained_image), ("text", pretrained_text)):
            tower: Any = getattr(model, part, None)
            if hasattr(tower, "materialise"):
                tower.materialise(streams.key(part), pretrained=pretrained)
        ready = filled_modules(model)
        _allocate(model)
        init_parameters(model, seed, ready)
        model.to(device)
    cast_parameters(model, mode)
    return model


def _allocate(model: nn.Module) -> None:
    """Replace meta tensors by empty ones on the CPU, where initial values are drawn.

    Not by `to_empty()`: on meta tensors it goes through torch's Python decompositions, which import sympy (2 s).
    """
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
