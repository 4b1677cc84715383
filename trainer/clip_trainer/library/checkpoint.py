"""`load_checkpoint` and `load_state_dict`, with OpenCLIP's arguments and results."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from clip_trainer.weights.load import IncompatibleKeys, load_file
from clip_trainer.weights.read import read_weights


def load_state_dict(
    checkpoint_path: str | Path, device: str | torch.device = "cpu", weights_only: bool = True
) -> dict[str, Tensor]:
    """The tensors in a file of weights by name.

    Args:
        checkpoint_path: safetensors, a torch checkpoint, or a TorchScript archive (whose code is not run).
        device: where to put them.
        weights_only: no effect: files are never unpickled in a way that could run code.

    Raises:
        ClipError: see `read_weights`.
    """
    return read_weights(checkpoint_path, device).state_dict


def load_checkpoint(
    model: nn.Module,
    checkpoint_path: str | Path,
    strict: bool = True,
    weights_only: bool = True,
    device: str | torch.device = "cpu",
) -> IncompatibleKeys:
    """Load a file of weights into a model, whatever their format and layout.

    Args:
        model: any model of ours.
        checkpoint_path: see `load_state_dict`; or a `.npz` file of big_vision.
        strict: names must be exactly those of the model.
        weights_only: no effect: files are never unpickled in a way that could run code.
        device: where to read the tensors to.

    Returns:
        Names that are missing, and names that were not used.

    Raises:
        RuntimeError: the weights do not fit, or were made with another activation than the model has.
        ClipError: see `load_file`.
    """
    return load_file(model, checkpoint_path, strict=strict, device=device)
