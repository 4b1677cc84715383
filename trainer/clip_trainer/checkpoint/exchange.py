"""Giving tensors from one rank to all others: a state from memory, or from a checkpoint that one rank has read.

Tensors travel as bytes, many small ones in one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.train.group import Group

MESSAGE_BYTES = 32 << 20  # big enough to be bound by bandwidth, small enough to bound the copy

Described = dict[str, dict[str, tuple[list[int], str]]]
"""Shape and dtype of every tensor by part and name, as JSON."""


def describe(parts: Mapping[str, Tensors]) -> Described:
    """What `parts` look like, without their values."""
    return {
        part: {name: (list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
        for part, tensors in parts.items()
    }


def broadcast_state(group: Group, source: int, parts: Mapping[str, Tensors] | None) -> dict[str, Tensors]:
    """The tensors of rank `source` on every rank's device; that rank gets its own back. Collective.

    Args:
        group: the ranks.
        source: who has them.
        parts: the tensors, on that rank; ignored on all others.
    """
    held = dict(parts or {}) if group.rank == source else {}
    described: Described = group.broadcast_json(describe(held), source)
    if group.rank != source:
        held = {part: _empty(group, shapes) for part, shapes in described.items()}
    broadcast_bytes(group, source, (held[part][name] for part in sorted(held) for name in sorted(held[part])))
    return held


def broadcast_bytes(group: Group, source: int, tensors: Iterable[torch.Tensor]) -> None:
    """Make every rank's tensors equal to those of rank `source`, in place, whatever their dtypes. Collective."""
    if group.world == 1:
        return
    with torch.no_grad():
        for bunch in _bunches(tensors):
            _broadcast_bunch(group, source, bunch)


def _empty(group: Group, shapes: Mapping[str, Any]) -> Tensors:
    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device=group.device)
        for name, (shape, dtype) in shapes.items()
    }


def _broadcast_bunch(group: Group, source: int, bunch: list[torch.Tensor]) -> None:
    if len(bunch) == 1 and bunch[0].is_contiguous():
        group.broadcast_tensors([_bytes(bunch[0])], source)  # shares its memory
        return
    flat = torch.cat([_bytes(tensor) for tensor in bunch])
    group.broadcast_tensors([flat], source)
    if group.rank == source:
        return
    at = 0
    for tensor in bunch:
        got = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        _bytes(got).copy_(flat[at : at + tensor.nbytes])
        tensor.copy_(got)
        at += tensor.nbytes


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, or of a contiguous copy: [bytes]."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _bunches(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bunch: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if not tensor.nbytes:
            continue
        if bunch and size + tensor.nbytes > MESSAGE_BYTES:
            yield bunch
            bunch, size = [], 0
        bunch.append(tensor)
        size += tensor.nbytes
    if bunch:
        yield bunch
