"""Weights in and out: safetensors files with OpenCLIP's keys, and OpenCLIP's configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from clip_trainer.model.config import ClipConfig
from clip_trainer.vision.preprocess import OPENAI_PREPROCESS, Preprocess
from clipctl.contract.errors import CorruptError, MissingError

WEIGHTS_FILE = "open_clip_model.safetensors"
"""File name OpenCLIP looks for in a `local-dir:` model."""
CONFIG_FILE = "open_clip_config.json"
"""File name of the configuration beside it."""


def to_bytes(state_dict: Mapping[str, Tensor]) -> bytes:
    """A state dict as the bytes of a safetensors file (no pickle, readable without executing anything)."""
    return safetensors.torch.save(_plain(state_dict), metadata={"format": "pt"})


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CorruptError: the bytes are not such a file.
    """
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CorruptError(f"The weights are not a valid safetensors file: {error}.") from None


def save_weights(state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a state dict as a safetensors file."""
    safetensors.torch.save_file(_plain(state_dict), path, metadata={"format": "pt"})


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        MissingError: there is no such file.
        CorruptError: the file is not safetensors.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise MissingError(f"There are no weights at {path}.", hint="Check the path.") from None
    except SafetensorError as error:
        raise CorruptError(f"{path} is not a valid safetensors file: {error}.") from None


def load_into(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copy a state dict into `model`: same keys and shapes, nothing left over (types are converted).

    A `module.` prefix, which OpenCLIP writes when it trains distributed, is removed.

    Raises:
        CorruptError: keys or shapes differ; the first few of each kind are named.
    """
    given = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}
    wanted = model.state_dict()
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(wanted[key].shape)}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    problems = [
        f"{title}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for title, names in (
            ("missing", sorted(wanted.keys() - given.keys())),
            ("unexpected", sorted(given.keys() - wanted.keys())),
            ("wrong shape", shapes),
        )
        if names
    ]
    if problems:
        raise CorruptError(
            f"The weights do not fit the model ({'; '.join(problems)}).",
            hint="Check that model.name is the architecture they were made for.",
        )
    model.load_state_dict(given, strict=True)


def open_clip_config(config: ClipConfig, preprocess: Preprocess = OPENAI_PREPROCESS) -> dict[str, object]:
    """Content of `open_clip_config.json`, which makes a folder loadable by OpenCLIP as `local-dir:`."""
    return {"model_cfg": config.to_dict(), "preprocess_cfg": preprocess.to_dict()}


def _plain(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, contiguous tensors on the CPU, which is what safetensors stores."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
