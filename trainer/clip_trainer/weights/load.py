"""Weights of any known kind into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clip_trainer.model.config import ClipConfig
from clip_trainer.parallel.pieces import any_sharded, assign
from clip_trainer.weights.activation import check_activation, recorded_beside
from clip_trainer.weights.big_vision import read_big_vision
from clip_trainer.weights.layouts import fit
from clip_trainer.weights.mobileclip import from_mobileclip, is_mobileclip
from clip_trainer.weights.read import Weights, read_weights
from clipctl.contract.errors import CorruptError

_NUMPY = (".npz", ".npy")


class WeightsMismatch(CorruptError, RuntimeError):
    """Names or shapes of the weights are not those of the model (torch's own error for it is a RuntimeError)."""


class IncompatibleKeys(NamedTuple):
    """What loading that is not strict left out; unpacks like torch's."""

    missing_keys: list[str]
    """Names the model has and the weights do not."""
    unexpected_keys: list[str]
    """Names the weights have and the model does not."""


def load_file(
    model: nn.Module,
    path: str | Path,
    *,
    strict: bool = True,
    device: str | torch.device = "cpu",
    check_quick_gelu: bool = True,
) -> IncompatibleKeys:
    """Load the weights in a file into `model`, whatever their format and layout.

    Args:
        model: any model of ours.
        path: see `read_weights`; or a `.npz` file of big_vision.
        strict: every tensor of the model must be there, and no other. If false, what does not fit by name is left out.
        device: where to read the tensors to.
        check_quick_gelu: refuse weights that say they were made with the other activation.

    Raises:
        MissingError: there is no such file.
        CorruptError: the file is damaged or not safe to read.
        ActivationMismatch: the weights were made with the other activation.
        WeightsMismatch: they are those of another architecture; the model is unchanged.
    """
    if Path(path).suffix in _NUMPY:
        return load_state(model, read_big_vision(path), strict=strict, source=str(path))
    weights = read_weights(path, device)
    if check_quick_gelu and isinstance(config := getattr(model, "config", None), ClipConfig):
        check_activation(recorded_quick_gelu(weights, path), config, str(path))
    state = weights.state_dict
    if is_mobileclip(state):
        state = from_mobileclip(state, model)
    return load_state(model, state, strict=strict, source=str(path))


def recorded_quick_gelu(weights: Weights, path: str | Path) -> bool | None:
    """Whether weights were made with QuickGELU: what their file says, else the configuration beside it."""
    return recorded_beside(path) if weights.quick_gelu is None else weights.quick_gelu


def load_state(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, strict: bool = True, source: str = "The weights"
) -> IncompatibleKeys:
    """Copy a state dict into `model`, after adapting its layout (see `fit`). Types are converted.

    A sharded model takes its rows.

    Raises:
        WeightsMismatch: names (if `strict`) or shapes differ; the first few are named, and the model is unchanged.
    """
    given, wanted = fit(state_dict, model), model.state_dict()
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    found = {"wrong shape": shapes, **({"missing": missing, "unexpected": unexpected} if strict else {})}
    problems = [f"{title}: {_few(names)}" for title, names in found.items() if names]
    if problems:
        raise WeightsMismatch(
            f"{source} does not fit the model ({'; '.join(problems)}).",
            hint="Check that the model name is the architecture the weights were made for.",
        )
    if any_sharded(wanted):  # torch would not mix sharded and whole tensors
        for key in wanted.keys() & given.keys():
            assign(wanted[key], given[key])
    else:
        model.load_state_dict(given, strict=strict)
    return IncompatibleKeys(missing, unexpected)


def _few(names: list[str], limit: int = 3) -> str:
    listed = ", ".join(sorted(names)[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
