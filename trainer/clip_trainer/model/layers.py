"""Small layers that residual blocks and towers are made of (names as in OpenCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.config import ActKwargs, NormKwargs
from clip_trainer.model.init_streams import Streams


class LayerNorm(nn.LayerNorm):
    """Layer norm in the precision of its weights, returned in the precision of its input.

    With float32 weights this keeps the statistics in float32 under autocast and in the `bf16` and `fp16` modes alike,
    and a low-precision residual stream stays so.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        inner = x if self.weight is None else x.to(self.weight.dtype)
        normed = functional.layer_norm(inner, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


def make_norm(width: int, kwargs: NormKwargs | None) -> LayerNorm:
    """A layer norm over `width` with the arguments of a configuration."""
    return LayerNorm(width, **(kwargs or NormKwargs()).model_dump())


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the GELU approximation that OpenAI's CLIP weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it element by element."""
        return x * torch.sigmoid(1.702 * x)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (arXiv 2103.17239).

    Args:
        width: number of channels.
        initial: value it starts with.
    """

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension, in the precision of `x` (the factor may be stored in more)."""
        return (x * self.gamma).to(x.dtype)

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill with the initial value."""
        streams.fill(self.gamma, self.initial)


def make_scale(width: int, initial: float | None) -> nn.Module:
    """Layer scale, or nothing where a configuration has none."""
    return nn.Identity() if initial is None else LayerScale(width, initial)


class Mlp(nn.Module):
    """Two linear layers around an activation.

    Args:
        width: width of the residual stream.
        hidden: width between the layers.
        quick_gelu: use `QuickGELU` in place of GELU.
        act_kwargs: arguments of GELU.
        norm: layer norm of width `hidden` after the activation.
    """

    def __init__(
        self, width: int, hidden: int, *, quick_gelu: bool, act_kwargs: ActKwargs | None, norm: LayerNorm | None = None
    ) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU((act_kwargs or ActKwargs()).approximate)
        self.ln = nn.Identity() if norm is None else norm
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        out: Tensor = self.c_proj(self.ln(self.gelu(self.c_fc(x))))
        return out
