"""Build a model from its name."""

from __future__ import annotations

import torch

from clip_trainer.model.clip import CLIP, SpeedUps
from clip_trainer.model.config import ClipConfig, get_config
from clip_trainer.model.init import init_parameters
from clip_trainer.model.precision import cast_parameters, get_precision


def create_model(
    name: str | ClipConfig,
    precision: str = "fp32",
    seed: int = 0,
    *,
    device: str | torch.device = "cpu",
    speed_ups: SpeedUps | None = None,
) -> CLIP:
    """A freshly initialised model in training mode.

    Args:
        name: a built-in name (`clip_trainer.model.config.model_names`) or a configuration.
        precision: a mode of `clip_trainer.model.precision`.
        seed: the weights are a pure function of it, equal on every rank and device.
        device: where to put it; "meta" gives names, shapes and types without memory.
        speed_ups: exact shortcuts to use; all of them if None.

    Raises:
        SpecError: unknown model or precision.
    """
    config = get_config(name) if isinstance(name, str) else name
    mode = get_precision(precision)
    with torch.device("meta"):
        # Allocate nothing until the final device is known, and skip torch's own initialisation.
        model = CLIP(config, speed_ups or SpeedUps())
    if torch.device(device).type != "meta":
        # Not to_empty(): on meta tensors it goes through torch's Python decompositions, which import sympy (2 s).
        empty = {
            key: torch.empty(value.shape, dtype=value.dtype, device=device) for key, value in model.state_dict().items()
        }
        model.load_state_dict(empty, assign=True)
        init_parameters(model, seed)
    cast_parameters(model, mode)
    return model
