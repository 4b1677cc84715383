"""Freezing part of a tower (LiT, arXiv 2111.07991).

A tower is cut into groups of layers from input to output. Locking it freezes all of them but the last `unlocked`
ones. What belongs to a group is OpenCLIP's choice, so that a lock freezes the same parameters there and here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from clip_trainer.model.frozen_batch_norm import freeze_batch_norms


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are frozen (or get their learning rate) together."""

    name: str
    """`embeddings`, `layer.<i>` or `proj`."""
    members: Sequence[nn.Module | nn.Parameter]
    """Modules and bare parameters."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the group."""
        for member in self.members:
            if isinstance(member, nn.Parameter):
                yield member
            else:
                yield from member.parameters()

    def modules(self) -> Iterator[nn.Module]:
        """All modules of the group, nested ones included."""
        for member in self.members:
            if isinstance(member, nn.Module):
                yield from member.modules()


def lock_groups(
    tower: nn.Module,
    groups: Sequence[LayerGroup],
    unlocked: int,
    *,
    freeze_layer_norm: bool = True,
    freeze_bn_stats: bool = False,
) -> None:
    """Freeze every parameter of the groups but those of the last `unlocked` ones.

    Args:
        tower: the module the groups are parts of.
        groups: from input to output.
        unlocked: how many groups stay trainable; more than there are means all.
        freeze_layer_norm: False leaves the layer norms of frozen groups trainable.
        freeze_bn_stats: replace the batch normalisations of frozen groups by ones with fixed statistics.
    """
    cut = max(0, len(groups) - unlocked)
    for index, group in enumerate(groups):
        for parameter in group.parameters():
            parameter.requires_grad = index >= cut
    frozen = [module for group in groups[:cut] for module in group.modules()]
    if not freeze_layer_norm:
        thaw_layer_norms(frozen)
    if freeze_bn_stats:
        inside = {id(module) for module in frozen}
        freeze_batch_norms(tower, {name for name, module in tower.named_modules() if id(module) in inside})


def thaw_layer_norms(modules: Iterable[nn.Module]) -> None:
    """Make the parameters of every layer norm (LayerNorm, RMSNorm, whatever library it is from) trainable."""
    for module in modules:
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm", "LayerNormFp32")):
            for parameter in module.parameters():
                parameter.requires_grad = True
