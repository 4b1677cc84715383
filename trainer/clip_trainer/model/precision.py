"""Precision modes: which tensors are stored and computed in which type (OpenCLIP's names)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip_trainer.model.attention import CrossAttention, SelfAttention
from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.layers import LayerNorm
from clip_trainer.model.text_transformer import TextTower
from clip_trainer.model.vit import VisionTransformer
from clipctl.contract.errors import SpecError

_PROJECTIONS = ("in_proj_", "q_proj_", "k_proj_", "v_proj_")


@dataclass(frozen=True)
class Precision:
    """One precision mode."""

    name: str
    """Its name in run.yaml."""
    autocast_dtype: torch.dtype | None = None
    """Type autocast computes matrix products in; None means no autocast."""
    weight_dtype: torch.dtype = torch.float32
    """Stored type of the matrices (linear, convolution, attention, projections)."""
    other_dtype: torch.dtype = torch.float32
    """Stored type of everything else (norms, embeddings, positions, logit scale)."""
    needs_scaler: bool = False
    """Whether training scales the loss so that small gradients do not vanish in fp16."""

    @property
    def image_dtype(self) -> torch.dtype:
        """Type of the image batch given to the model."""
        return self.weight_dtype

    def autocast(self, device_type: str) -> AbstractContextManager[object]:
        """Context to run forward passes in.

        Args:
            device_type: "cpu", "cuda", ...
        """
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device_type, dtype=self.autocast_dtype)


_BF16, _FP16 = torch.bfloat16, torch.float16
_MODES = (
    Precision("fp32"),
    Precision("amp", autocast_dtype=_FP16, needs_scaler=True),
    Precision("amp_bf16", autocast_dtype=_BF16),
    Precision("amp_bfloat16", autocast_dtype=_BF16),
    Precision("bf16", weight_dtype=_BF16),
    Precision("fp16", weight_dtype=_FP16),
    Precision("pure_bf16", weight_dtype=_BF16, other_dtype=_BF16),
    Precision("pure_fp16", weight_dtype=_FP16, other_dtype=_FP16),
)
_BY_NAME = {mode.name: mode for mode in _MODES}


def get_precision(name: str) -> Precision:
    """The precision mode called `name`.

    Raises:
        SpecError: no such mode; the nearest one is suggested.
    """
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        suggestion = f"Did you mean {near[0]}? " if near else ""
        raise SpecError(f"There is no precision called {name!r}.", hint=f"{suggestion}Known: {', '.join(_BY_NAME)}.")
    return _BY_NAME[name]


def cast_parameters(model: ClipModel, precision: Precision) -> None:
    """Convert the stored parameters of `model` in place to the types of `precision`, as OpenCLIP splits them.

    A model with a timm tower is stored in the low precision as a whole, but for the layer norms of native towers:
    layers of timm cannot work with mixed types.
    """
    if precision.weight_dtype == precision.other_dtype:
        model.to(precision.weight_dtype)
    elif model.config.vision.kind == "timm":
        model.to(precision.weight_dtype)
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.to(precision.other_dtype)
    else:
        for tensor in matrices(model):
            tensor.data = tensor.data.to(precision.weight_dtype)


def matrices(model: nn.Module) -> Iterator[Tensor]:
    """What the `bf16` and `fp16` modes store in low precision."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            yield from module.parameters(recurse=False)
        elif isinstance(module, (SelfAttention, CrossAttention)):
            yield from (p for name, p in module.named_parameters(recurse=False) if name.startswith(_PROJECTIONS))
        elif isinstance(module, TextTower) and isinstance(module.text_projection, nn.Parameter):
            yield module.text_projection
        elif isinstance(module, VisionTransformer):
            yield module.proj
