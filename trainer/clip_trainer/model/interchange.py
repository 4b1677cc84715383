"""Weights and configuration in OpenCLIP's formats: what exports and checkpoints are made of. Loading: see `weights`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from clip_trainer.model.config import ClipConfig
from clip_trainer.vision.preprocess import OPENAI_PREPROCESS, Preprocess
from clipctl.contract.errors import CorruptError

WEIGHTS_FILE = "open_clip_model.safetensors"
"""File name OpenCLIP looks for in a `local-dir:` model."""
CONFIG_FILE = "open_clip_config.json"
"""File name of the configuration beside it."""


def to_bytes(state_dict: Mapping[str, Tensor], *, quick_gelu: bool | None = None) -> bytes:
    """A state dict as the bytes of a safetensors file (no pickle, readable without executing anything).

    Args:
        state_dict: the tensors.
        quick_gelu: recorded in the file, so that the weights are never run with the other activation.
    """
    return safetensors.torch.save(_plain(state_dict), metadata=_metadata(quick_gelu))


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CorruptError: the bytes are not such a file.
    """
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CorruptError(f"The weights are not a valid safetensors file: {error}.") from None


def save_weights(state_dict: Mapping[str, Tensor], path: str | Path, *, quick_gelu: bool | None = None) -> None:
    """Write a state dict as a safetensors file; see `to_bytes`."""
    safetensors.torch.save_file(_plain(state_dict), path, metadata=_metadata(quick_gelu))


def open_clip_config(config: ClipConfig, preprocess: Preprocess = OPENAI_PREPROCESS) -> dict[str, object]:
    """Content of `open_clip_config.json`, which makes a folder loadable by OpenCLIP as `local-dir:`."""
    return {"model_cfg": config.to_dict(), "preprocess_cfg": preprocess.to_dict()}


def _metadata(quick_gelu: bool | None) -> dict[str, str]:
    return {"format": "pt"} | ({} if quick_gelu is None else {"quick_gelu": str(quick_gelu).lower()})


def _plain(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, contiguous tensors on the CPU, which is what safetensors stores."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
