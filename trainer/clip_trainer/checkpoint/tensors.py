"""The tensors that make up the training state, under stable names, and their partition among ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
_MOMENTS = ("exp_avg", "exp_avg_sq")

Tensors = dict[str, torch.Tensor]


def state_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensors]:
    """Live references to all state tensors: `weights` by parameter name, `optimizer` as `<moment>.<parameter name>`.

    Moments that do not exist before the first step are created as zeros, which is what AdamW would do.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    moments: Tensors = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            state.setdefault("step", torch.zeros((), dtype=torch.float32))
            for moment in _MOMENTS:
                state.setdefault(moment, torch.zeros_like(parameter, memory_format=torch.preserve_format))
                moments[f"{moment}.{names[parameter]}"] = state[moment]
    return {WEIGHTS: dict(model.state_dict()), OPTIMIZER: moments}


def set_optimizer_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Set AdamW's step count, which drives its bias correction."""
    for state in optimizer.state.values():
        state["step"].fill_(float(step))


def partition(tensors: Mapping[str, torch.Tensor], ranks: int) -> list[list[str]]:
    """Names for each rank, balanced by bytes; the same on every rank, without talking to each other."""
    loads = [0] * ranks
    shares: list[list[str]] = [[] for _ in range(ranks)]
    by_size = sorted(tensors, key=lambda name: (-tensors[name].nbytes, name))
    for name in by_size:
        lightest = min(range(ranks), key=lambda rank: (loads[rank], rank))
        shares[lightest].append(name)
        loads[lightest] += tensors[name].nbytes
    return [sorted(share) for share in shares]


def copy_into(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy `source` into `target` in place; returns what does not fit (missing, unexpected, other shape)."""
    problems = [f"{name} is missing" for name in target if name not in source]
    problems += [f"{name} is unexpected" for name in source if name not in target]
    problems += [
        f"{name} has shape {tuple(source[name].shape)} instead of {tuple(target[name].shape)}"
        for name in target
        if name in source and source[name].shape != target[name].shape
    ]
    if not problems:
        with torch.no_grad():
            for name, tensor in target.items():
                tensor.copy_(source[name])
    return problems
