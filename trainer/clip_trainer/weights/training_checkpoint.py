"""Training checkpoints of OpenCLIP (`epoch_K.pt`): `{epoch, name, state_dict, optimizer}`, to continue and to write.

OpenCLIP numbers the optimiser's state by the order of the parameters in its two groups: those without weight decay,
then the others, each in the order of the model. Ours is kept by name, so the order is all there is to translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.model.config import ClipConfig
from clip_trainer.parallel.pieces import assign
from clip_trainer.weights.activation import METADATA_KEY, check_activation
from clip_trainer.weights.load import load_state
from clip_trainer.weights.read import plain_keys, read_torch
from clipctl.contract.errors import CorruptError, SpecError

MOMENTS = ("exp_avg", "exp_avg_sq")
_UNDECAYED = ("bn", "ln", "bias", "logit_scale")


@dataclass(frozen=True)
class Position:
    """How far a training checkpoint is."""

    epoch: int
    """Epochs completed."""
    step: int
    """Optimiser steps done; 0 for a checkpoint without optimiser state."""


def parameter_order(model: nn.Module) -> list[list[str]]:
    """Names of the trainable parameters in OpenCLIP's two groups: undecayed, decayed."""
    undecayed: list[str] = []
    decayed: list[str] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or any(part in name for part in _UNDECAYED)
            (undecayed if exempt else decayed).append(name)
    return [undecayed, decayed]


def resume(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, check_quick_gelu: bool = True
) -> Position:
    """Continue from a checkpoint: its weights into `model`, its moments into `optimizer`.

    A file that holds weights alone starts at step 0 with them, as in OpenCLIP.

    Args:
        path: the checkpoint.
        model: of the same architecture, with the same parameters frozen.
        optimizer: AdamW over the trainable parameters of `model`, in any grouping.
        check_quick_gelu: refuse weights that say they were made with the other activation.

    Raises:
        ActivationMismatch: they say so.
        CorruptError: it is damaged or not safe to read, or does not fit the model.
        SpecError: it has optimiser state, and `optimizer` is not AdamW.
    """
    content = read_torch(path)
    if not isinstance(content, Mapping):
        raise CorruptError(f"{path} is no training checkpoint: it must map names to values.")
    recorded, config = content.get(METADATA_KEY), getattr(model, "config", None)
    if check_quick_gelu and isinstance(recorded, bool) and isinstance(config, ClipConfig):
        check_activation(recorded, config, str(path))
    weights = content.get("state_dict", content)
    load_state(model, plain_keys(weights), source=str(path))
    if "epoch" not in content or "optimizer" not in content:
        return Position(0, 0)
    if not isinstance(optimizer, torch.optim.AdamW):
        raise SpecError(
            f"{path} holds the state of AdamW, but the run uses another optimiser.",
            hint="Set train.optimizer: adamw, or start from its weights with model.pretrained.",
        )
    step = _restore_moments(str(path), content["optimizer"], model, optimizer)
    return Position(int(content["epoch"]), step)


def _restore_moments(source: str, saved: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Copy the moments; returns the number of steps."""
    by_name = _by_name(source, saved, parameter_order(model))
    parameters = dict(model.named_parameters())
    steps = {int(entry["step"]) for entry in by_name.values() if "step" in entry} or {0}
    # Torch wants the count on the CPU, unless a fused kernel reads it.
    fused = {parameter for group in optimizer.param_groups if group.get("fused") for parameter in group["params"]}
    for name, entry in by_name.items():
        parameter = parameters[name]
        state = optimizer.state[parameter]
        state["step"] = torch.tensor(float(max(steps)), device=parameter.device if parameter in fused else "cpu")
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter.detach())
            if moment in entry:
                value = entry[moment]
                if value.shape != parameter.shape:
                    raise CorruptError(f"{source}: the optimiser state of {name} has shape {list(value.shape)}.")
                assign(state[moment], value)
    return max(steps)


def _by_name(source: str, saved: Any, order: list[list[str]]) -> dict[str, Mapping[str, Tensor]]:
    """The state of each parameter; empty for those that never had a gradient."""
    try:
        sizes, wanted = [len(group["params"]) for group in saved["param_groups"]], [len(names) for names in order]
        if sizes != wanted:
            raise CorruptError(
                f"{source}: its optimiser has groups of {sizes} parameters, the model has {wanted}.",
                hint="model and locks must be as in the run that wrote it, and its optimiser adamw.",
            )
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        names = [name for group in order for name in group]
        return {name: saved["state"].get(number, {}) for name, number in zip(names, numbers, strict=True)}
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{source}: the optimiser state has an unknown form: {error}.") from None


def describe(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """What is needed besides tensors to write the state as OpenCLIP does; None if it has no form for it.

    Plain values: they are stored with our checkpoints, so that these can be exported without torch.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        return None
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    first = optimizer.param_groups[0]
    return {
        "parameters": parameter_order(model),
        "weight_decay": [0.0, max(decays)],
        "lr": float(first["lr"]),
        "betas": [float(beta) for beta in first["betas"]],
        "eps": float(first["eps"]),
    }
