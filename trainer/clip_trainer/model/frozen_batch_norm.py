"""Batch normalisation with frozen statistics: a fixed affine map for each channel."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenBatchNorm2d(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias with nothing learned and nothing tracked.

    All tensors are buffers, so that no optimiser sees them, and their names are those of `torch.nn.BatchNorm2d`
    (`num_batches_tracked` included), so that a state dict does not tell whether the layer was frozen.

    Args:
        norm: the layer to freeze; tensors are shared with it. An activation and dropout that timm fused into it
            (`act`, `drop`) are kept.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.num_features = norm.num_features
        self.eps = norm.eps
        for name in ("weight", "bias"):
            parameter = getattr(norm, name)
            self.register_buffer(name, None if parameter is None else parameter.detach())
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.drop = getattr(norm, "drop", None) or nn.Identity()
        self.act = getattr(norm, "act", None) or nn.Identity()
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, height, width] to the same shape."""
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        # In the precision of the statistics, which is the larger one under autocast.
        mapped = (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
        activated: Tensor = self.act(self.drop(mapped))
        return activated


def freeze_batch_norms(module: nn.Module, only: Container[str] | None = None) -> None:
    """Replace the 2-d batch normalisations below `module` by frozen ones, in place.

    Args:
        module: where to look; it must not be a batch normalisation itself, since it is changed in place.
        only: full names (relative to `module`) to freeze; None means all.
    """
    for name, part in list(module.named_modules()):
        if isinstance(part, (nn.BatchNorm2d, nn.SyncBatchNorm)) and (only is None or name in only):
            assert name, "a batch normalisation cannot be replaced in place"
            parent, _, child = name.rpartition(".")
            module.get_submodule(parent).add_module(child, FrozenBatchNorm2d(part))
