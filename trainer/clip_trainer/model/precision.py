"""Precision modes: which tensors are stored and computed in which type (OpenCLIP's names)."""

from __future__ import annotations

import difflib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from clip_trainer.model.attention import SelfAttention
from clip_trainer.model.clip import CLIP
from clipctl.contract.errors import SpecError


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


_FP32 = Precision("fp32")
_AMP_BF16 = Precision("amp_bf16", autocast_dtype=torch.bfloat16)
_BF16 = Precision("bf16", weight_dtype=torch.bfloat16)
_PURE_BF16 = Precision("pure_bf16", weight_dtype=torch.bfloat16, other_dtype=torch.bfloat16)
_BY_NAME = {
    "fp32": _FP32,
    "amp_bf16": _AMP_BF16,
    "amp_bfloat16": _AMP_BF16,
    "bf16": _BF16,
    "pure_bf16": _PURE_BF16,
}


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


def cast_parameters(model: CLIP, precision: Precision) -> None:
    """Convert the stored parameters of `model` in place to the types of `precision`."""
    model.to(precision.other_dtype)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(precision.weight_dtype)
        elif isinstance(module, SelfAttention):
            for parameter in (module.in_proj_weight, module.in_proj_bias):
                parameter.data = parameter.data.to(precision.weight_dtype)
    for parameter in (model.visual.proj, model.text_projection):
        parameter.data = parameter.data.to(precision.weight_dtype)
