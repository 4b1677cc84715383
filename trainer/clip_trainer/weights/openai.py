"""The configuration of an OpenAI CLIP model, read off the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from clipctl.contract.errors import CorruptError

_RESNET_STRIDE = 32
"""Pixels of the input for each position of a ResNet's last feature map."""
_HEAD_WIDTH = 64


def infer_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """A model configuration in OpenCLIP's layout for the weights of an OpenAI model (always QuickGELU).

    Raises:
        CorruptError: these are not the weights of such a model.
    """
    try:
        vision = _vit(state_dict) if "visual.proj" in state_dict else _resnet(state_dict)
        context, width = state_dict["positional_embedding"].shape
        return {
            "embed_dim": state_dict["text_projection"].shape[1],
            "vision_cfg": vision,
            "text_cfg": {
                "context_length": context,
                "vocab_size": len(state_dict["token_embedding.weight"]),
                "width": width,
                "heads": width // _HEAD_WIDTH,
                "layers": _count(state_dict, "transformer.resblocks."),
            },
            "quick_gelu": True,
        }
    except KeyError as error:
        raise CorruptError(f"These are not the weights of an OpenAI CLIP model: {error} is missing.") from None


def _vit(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, _, patch = state["visual.conv1.weight"].shape
    grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
    layers = _count(state, "visual.transformer.resblocks.")
    return {"image_size": patch * grid, "layers": layers, "width": width, "patch_size": patch}


def _resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    grid = math.isqrt(len(state["visual.attnpool.positional_embedding"]) - 1)
    layers = [_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]
    width = len(state["visual.layer1.0.conv1.weight"])
    return {"image_size": grid * _RESNET_STRIDE, "layers": layers, "width": width, "patch_size": None}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules stand below `prefix`."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})
