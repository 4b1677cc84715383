"""Reading files of weights: safetensors, torch's checkpoints, OpenAI's TorchScript archives. Nothing in them is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_trainer.weights.torchscript import is_torchscript, read_torchscript
from clipctl.contract.errors import ClipError, CorruptError, MissingError

OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives keep among the weights."""
_PREFIXES = ("module.", "_orig_mod.")
_REFUSED = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Unsupported operand) ([\w.]+)")


class Format(Enum):
    """What kind of file weights came from."""

    SAFETENSORS = "safetensors"
    TORCH = "torch checkpoint"
    TORCHSCRIPT = "TorchScript archive"


@dataclass(frozen=True)
class Weights:
    """The content of a file of weights."""

    state_dict: dict[str, Tensor]
    """Tensors by the name in the file, without the prefixes of distributed training and compilation."""
    format: Format
    """What kind of file it was."""
    quick_gelu: bool | None = None
    """The activation the file says it was made with; None if it does not say."""


def read_weights(path: str | Path, device: str | torch.device = "cpu") -> Weights:
    """Read the weights in a file.

    Args:
        path: `.safetensors`; `.pt`, `.pth`, `.bin` (a state dict or a training checkpoint); or a TorchScript archive,
            whose half-precision weights become float32.
        device: where to put the tensors.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is damaged, or holds anything but tensors, which could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"There are no weights at {path}.", hint="Check the path.")
    if _is_safetensors(path):
        return _read_safetensors(path, device)
    if is_torchscript(path):
        state = {key: _full(value).to(device) for key, value in read_torchscript(path).items()}
        return _openai(plain_keys(state))
    return _read_checkpoint(path, device)


def read_torch(path: str | Path, device: str | torch.device = "cpu") -> Any:
    """Unpickle a torch checkpoint by torch's list of harmless classes: tensors, numbers, strings, containers.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is damaged, or needs something that could run code.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise MissingError(f"There is no file {path}.", hint="Check the path.") from None
    except Exception as error:  # torch has half a dozen types for damaged and for refused files
        raise _refusal(path, str(error)) from None


def plain_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that distributed training (`module.`) and compilation (`_orig_mod.`) put before names."""
    state = dict(state_dict)
    while state and any(all(key.startswith(prefix) for key in state) for prefix in _PREFIXES):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _is_safetensors(path: Path) -> bool:
    """By content where the name does not tell: eight bytes of length, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def _read_safetensors(path: Path, device: str | torch.device) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise CorruptError(f"{path} is not a valid safetensors file: {error}.", hint="Fetch it again.") from None
    recorded = {"true": True, "false": False}.get(metadata.get("quick_gelu", ""))
    return Weights(plain_keys(state), Format.SAFETENSORS, recorded)


def _read_checkpoint(path: Path, device: str | torch.device) -> Weights:
    content = read_torch(path, device)
    recorded = content.get("quick_gelu") if isinstance(content, dict) else None
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CorruptError(f"{path} holds no state dict: it must map names to tensors.")
    state = plain_keys(content)
    if state.keys() >= {"input_resolution", "visual.proj"}:
        return _openai({key: _full(value) for key, value in state.items()})
    return Weights(state, Format.TORCH, recorded if isinstance(recorded, bool) else None)


def _openai(state: dict[str, Tensor]) -> Weights:
    """OpenAI's models, all of which use QuickGELU; the numbers among the weights are left out."""
    is_openai = any(key in state for key in OPENAI_ENTRIES)
    kept = {key: value for key, value in state.items() if key not in OPENAI_ENTRIES}
    return Weights(kept, Format.TORCHSCRIPT, True if is_openai else None)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.float16 else tensor.contiguous()


def _refusal(path: str | Path, message: str) -> ClipError:
    if "eights only" in message:  # torch: "Weights only load failed"
        found = _REFUSED.search(message)
        what = f" ({found.group(1)})" if found else ""
        return CorruptError(
            f"{path} holds Python objects other than tensors{what} and was not loaded: that could run code.",
            hint="Save its state dict as safetensors where you trust it.",
        )
    reason = message.strip().splitlines()[0] if message.strip() else "unknown format"
    return CorruptError(f"{path} is not a readable torch checkpoint: {reason}", hint="Fetch it again.")
