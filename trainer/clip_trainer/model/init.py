"""Initial weights, with OpenCLIP's distributions.

Layers get what torch gives them; then each module that has `init_parameters(streams, prefix)` fills what it wants
otherwise, inner modules before outer ones. Every tensor has its own random stream, named by (seed, parameter name).
"""

from __future__ import annotations

import math
from itertools import chain

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clip_trainer.model.init_streams import Streams


@torch.no_grad()
def init_parameters(model: nn.Module, seed: int, ready: frozenset[int] = frozenset()) -> None:
    """Fill every parameter and buffer of `model` (a no-op for the values of a model on the meta device).

    Args:
        model: the model to fill.
        seed: any integer.
        ready: `id` of the modules that are filled already (see `filled_modules`).
    """
    streams = Streams(seed)
    named = [(f"{name}." if name else "", module) for name, module in model.named_modules() if id(module) not in ready]
    for prefix, module in named:
        _init_layer(module, streams, prefix)
    for prefix, module in reversed(named):
        own = getattr(module, "init_parameters", None)
        if own is not None:
            own(streams, prefix)


def filled_modules(model: nn.Module) -> frozenset[int]:
    """`id` of the modules with a tensor of their own that is not on the meta device."""
    tensors = {id(module): chain(module._parameters.values(), module._buffers.values()) for module in model.modules()}
    return frozenset(key for key, own in tensors.items() if any(t is not None and not t.is_meta for t in own))


def _init_layer(module: nn.Module, streams: Streams, prefix: str) -> None:
    """The defaults of torch for one layer."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        _init_matrix(module, streams, prefix)
    elif isinstance(module, nn.Embedding):
        streams.normal(module.weight, 1.0, f"{prefix}weight")
    elif isinstance(module, (nn.LayerNorm, _BatchNorm)):
        _init_norm(module)


def _init_matrix(module: nn.Linear | nn.Conv2d, streams: Streams, prefix: str) -> None:
    """Uniform within 1/sqrt(fan in), weight and bias."""
    bound = 1 / math.sqrt(module.weight[0].numel())
    streams.uniform(module.weight, bound, f"{prefix}weight")
    if module.bias is not None:
        streams.uniform(module.bias, bound, f"{prefix}bias")


def _init_norm(module: nn.LayerNorm | _BatchNorm) -> None:
    for tensor, value in ((module.weight, 1.0), (module.bias, 0.0)):
        if tensor is not None:
            tensor.fill_(value)
    if isinstance(module, _BatchNorm):
        module.reset_running_stats()
