"""Running statistics of batch normalisation: not parameters, yet every forward pass changes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clip_trainer.train.group import Group


class RunningStatistics:
    """The running means and variances of a model; most models have none.

    Args:
        model: where to look for them.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        found = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
        self._tensors: list[Tensor] = [tensor for tensor in found if tensor is not None]

    def copy(self) -> list[Tensor]:
        """What they are now."""
        return [tensor.clone() for tensor in self._tensors]

    @torch.no_grad()
    def put_back(self, copy: list[Tensor]) -> None:
        """Make them what they were when `copy` was made: a forward pass with values that are not finite spoils them."""
        for tensor, before in zip(self._tensors, copy, strict=True):
            tensor.copy_(before)

    @torch.no_grad()
    def average(self, group: Group) -> None:
        """Make them equal on all ranks, each of which has seen its share of the batch. Collective."""
        if group.world == 1 or not self._tensors:
            return
        flat = group.sum(torch.cat([tensor.reshape(-1) for tensor in self._tensors])) / group.world
        for tensor, mean in zip(self._tensors, torch.split(flat, [t.numel() for t in self._tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
