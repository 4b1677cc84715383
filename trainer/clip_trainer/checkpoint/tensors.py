"""The tensors that make up the training state, under stable names, and their partition among ranks."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from clip_trainer.parallel.pieces import assign

WEIGHTS = "weights"
"""Part of a checkpoint: the weights by parameter name."""
OPTIMIZER = "optimizer"
"""Part of a checkpoint: the optimiser's state, see `optimizer_state`."""
AVERAGE = "average"
"""Part of a checkpoint: the moving average of the weights by parameter name, if the run has one."""

Tensors = dict[str, torch.Tensor]
_Key = TypeVar("_Key", bound=Any)  # sortable


def partition(tensors: Mapping[_Key, torch.Tensor], ranks: int) -> list[list[_Key]]:
    """Names for each rank, balanced by bytes; the same on every rank, without talking to each other."""
    lightest = [(0, rank) for rank in range(ranks)]  # a heap: bytes so far, rank
    shares: list[list[_Key]] = [[] for _ in range(ranks)]
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        load, rank = lightest[0]
        shares[rank].append(name)
        heapq.heapreplace(lightest, (load + tensors[name].nbytes, rank))
    return [sorted(share) for share in shares]


def copy_into(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy `source` into `target` in place; returns what does not fit (missing, unexpected, other shape)."""
    shapes = {name: tuple(tensor.shape) for name, tensor in source.items()}
    problems = misfits(target, shapes)
    if not problems:
        with torch.no_grad():
            for name, tensor in target.items():
                assign(tensor, source[name])
    return problems


def misfits(target: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """How tensors of these names and shapes do not fit `target`: missing, unexpected, or of another shape."""
    problems = [f"{name} is missing" for name in target if name not in shapes]
    problems += [f"{name} is unexpected" for name in shapes if name not in target]
    problems += [
        f"{name} has shape {shapes[name]} instead of {tuple(target[name].shape)}"
        for name in target
        if name in shapes and shapes[name] != tuple(target[name].shape)
    ]
    return problems


def to_device(tensors: Mapping[str, torch.Tensor], device: torch.device) -> Tensors:
    """Copies of the tensors in the memory of a device, which nothing else refers to."""
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
