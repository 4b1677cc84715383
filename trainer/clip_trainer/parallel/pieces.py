"""Sharded tensors as pieces: which rows a rank has, and how it is given them.

A sharded tensor is torch's `DTensor`, cut along its first dimension as `torch.chunk` does: every rank gets
ceil(rows / world) of them, the last ones fewer or none. It is known here by what it can do, not by its class, whose
import costs seconds of CPU time that runs without sharding need not pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether ranks have only pieces of it."""
    return hasattr(tensor, "to_local")


def any_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether ranks have only pieces of some of them."""
    return any(map(is_sharded, tensors.values()))


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor, live: its rows, or all of a whole one."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor.detach()
    own: Tensor = sharded.to_local()
    return own


def rows_of(rows: int, rank: int, world: int) -> tuple[int, int]:
    """First row of a rank's piece and the one behind its last; equal if it has none."""
    size = -(-rows // world)
    return min(rows, rank * size), min(rows, (rank + 1) * size)


@torch.no_grad()
def assign(target: Tensor, source: Tensor) -> None:
    """Copy `source` into `target`, in place; a sharded target takes its rows of a whole source."""
    if is_sharded(target) and not is_sharded(source):
        sharded: Any = target
        start, stop = rows_of(target.shape[0], sharded.device_mesh.get_local_rank(), sharded.device_mesh.size())
        local(target).copy_(source[start:stop])
    else:
        target.copy_(source)


@torch.no_grad()
def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor as its parameter is: sharded, if that is sharded and has the same shape."""
    if is_sharded(tensor) or not is_sharded(parameter) or parameter.shape != tensor.shape:
        return tensor
    made = torch.zeros_like(parameter.detach(), dtype=tensor.dtype)
    assign(made, tensor)
    return made


@torch.no_grad()
def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors of which the ranks have rows, on every rank; others are not copied. Collective if some are."""
    found = {}
    for name, tensor in tensors.items():
        sharded: Any = tensor
        found[name] = sharded.full_tensor() if is_sharded(tensor) else tensor
    return found


@torch.no_grad()
def state_like(
    described: Mapping[str, tuple[tuple[int, ...], torch.dtype]], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Room for an optimiser's state: tensors named `<key>.<parameter name>`, sharded like their parameters.

    Args:
        described: shapes of the whole tensors, and their dtypes.
        parameters: by name. A tensor of another shape than its parameter is whole on every rank; so is one whose
            parameter is not among them.
    """
    made = {}
    for name, (shape, dtype) in described.items():
        parameter = parameters.get(name.partition(".")[2])
        if parameter is not None and is_sharded(parameter) and tuple(parameter.shape) == shape:
            made[name] = torch.zeros_like(parameter.detach(), dtype=dtype)
        else:
            device = None if parameter is None else parameter.device
            made[name] = torch.zeros(shape, dtype=dtype, device=device)
    return made
