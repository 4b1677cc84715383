"""Initial weights, with OpenCLIP's distributions.

Every tensor has its own random stream, named by (seed, parameter name): the weights do not depend on the order of
construction, on the device, or on which ranks hold which part of the model.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Generator, Tensor, nn

from clip_trainer.model.attention import SelfAttention
from clip_trainer.model.clip import CLIP
from clip_trainer.model.transformer import LayerNorm


@torch.no_grad()
def init_parameters(model: CLIP, seed: int) -> None:
    """Fill every parameter of `model` (a no-op for the values of a model on the meta device).

    The text tower follows the OpenAI code (normal, residual outputs scaled by depth), the image tower keeps torch's
    defaults for its layers, as OpenCLIP does.

    Args:
        model: the model to fill.
        seed: any integer.
    """
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, SelfAttention):
            width = module.in_proj_weight.shape[1]
            # Xavier's bound for the stacked [3 width, width] matrix, as in torch's MultiheadAttention.
            _uniform(module.in_proj_weight, math.sqrt(6 / (4 * width)), seed, f"{prefix}in_proj_weight")
            module.in_proj_bias.zero_()
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            _init_like_torch(module, seed, prefix)
            if name.endswith("attn.out_proj"):
                assert module.bias is not None
                module.bias.zero_()
    _init_vision_embeddings(model, seed)
    _init_text(model, seed)
    model.logit_scale.fill_(model.config.init_logit_scale)


def _init_like_torch(module: nn.Linear | nn.Conv2d, seed: int, prefix: str) -> None:
    """The default of torch for Linear and Conv2d: uniform within 1/sqrt(fan in), weight and bias."""
    bound = 1 / math.sqrt(module.weight[0].numel())
    _uniform(module.weight, bound, seed, f"{prefix}weight")
    if module.bias is not None:
        _uniform(module.bias, bound, seed, f"{prefix}bias")


def _init_vision_embeddings(model: CLIP, seed: int) -> None:
    visual = model.visual
    std = visual.class_embedding.shape[0] ** -0.5
    for name in ("class_embedding", "positional_embedding", "proj"):
        _normal(getattr(visual, name), std, seed, f"visual.{name}")


def _init_text(model: CLIP, seed: int) -> None:
    width, layers = model.config.text.width, model.config.text.layers
    _normal(model.token_embedding.weight, 0.02, seed, "token_embedding.weight")
    _normal(model.positional_embedding, 0.01, seed, "positional_embedding")
    _normal(model.text_projection, width**-0.5, seed, "text_projection")
    residual_std = width**-0.5 * (2 * layers) ** -0.5
    stds = {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": residual_std,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": residual_std,
    }
    for name, parameter in model.transformer.named_parameters():
        part = name.split(".", 2)[2]  # resblocks.<i>.<part>
        if part in stds:
            _normal(parameter, stds[part], seed, f"transformer.{name}")


def _stream(seed: int, name: str) -> Generator:
    """The random stream of one parameter."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _normal(tensor: Tensor, std: float, seed: int, name: str) -> None:
    if not tensor.is_meta:
        tensor.copy_(torch.empty(tensor.shape).normal_(0.0, std, generator=_stream(seed, name)))


def _uniform(tensor: Tensor, bound: float, seed: int, name: str) -> None:
    if not tensor.is_meta:
        tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=_stream(seed, name)))
