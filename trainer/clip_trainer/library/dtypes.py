"""Types of parameters and inputs in OpenCLIP's precision modes."""

from __future__ import annotations

import torch
from torch import nn

from clip_trainer.model.precision import matrices

_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def get_cast_dtype(precision: str) -> torch.dtype | None:
    """Type that embeddings are cast to before the transformers, in the modes that mix types; None in the others."""
    return _LOW.get(precision)


def get_input_dtype(precision: str) -> torch.dtype | None:
    """Type that images are given in, in the low-precision modes; None in the others."""
    return _LOW.get(precision.removeprefix("pure_"))


def convert_weights_to_lp(model: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Convert the matrices of a native model to low precision in place; norms and embeddings stay as they are."""
    for tensor in matrices(model):
        tensor.data = tensor.data.to(dtype)


convert_weights_to_fp16 = convert_weights_to_lp
