"""Initial weights of the native text tower, as the OpenAI code has them (arXiv 2103.00020)."""

from __future__ import annotations

from torch import nn

from clip_trainer.model.config import TextConfig
from clip_trainer.model.init_streams import Streams


def init_text(tower: nn.Module, config: TextConfig, streams: Streams, prefix: str) -> None:
    """Fill embeddings, projection and the matrices of the blocks; residual outputs are scaled down with depth.

    Args:
        tower: the module that has them.
        config: its shape.
        streams: where the numbers come from.
        prefix: of the parameters' names.
    """
    width = config.width
    parameters = dict(tower.named_parameters())
    stds = {"token_embedding.weight": 0.02, "positional_embedding": 0.01, "cls_emb": 0.01}
    stds |= {"text_projection": width**-0.5, "text_projection.weight": width**-0.5}
    for name, std in stds.items():
        if name in parameters:
            streams.normal(parameters[name], std, prefix + name)
    if "text_projection.bias" in parameters:
        streams.fill(parameters["text_projection.bias"], 0.0)
    by_part = block_stds(width, config.layers)
    for name, parameter in parameters.items():
        if name.startswith("transformer.resblocks."):
            part = name.split(".", 3)[3]  # transformer.resblocks.<i>.<part>
            if part in by_part:
                streams.normal(parameter, by_part[part], prefix + name)


def block_stds(width: int, layers: int) -> dict[str, float]:
    """Standard deviation of each matrix of a block, by the end of its name."""
    residual = width**-0.5 * (2 * layers) ** -0.5
    return {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": residual,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": residual,
    }
