"""The tensors that make up the training state, under stable names, and their partition among ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch

WEIGHTS = "weights"
"""Part of a checkpoint: the weights by parameter name."""
OPTIMIZER = "optimizer"
"""Part of a checkpoint: the optimiser's state, see `optimizer_state`."""
AVERAGE = "average"
"""Part of a checkpoint: the moving average of the weights by parameter name, if the run has one."""

Tensors = dict[str, torch.Tensor]


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
