"""Tiny models of every kind, and input for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TEXT: dict[str, Any] = {"context_length": 10, "vocab_size": 40, "width": 24, "heads": 3, "layers": 3}
VIT: dict[str, Any] = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 3, "head_width": 8}
RESNET: dict[str, Any] = {"image_size": 64, "layers": [2, 1, 1, 1], "width": 8, "patch_size": None}
COCA: dict[str, Any] = {
    "embed_dim": 12,
    "custom_text": True,
    "vision_cfg": VIT
    | {"attentional_pool": True, "attn_pooler_heads": 3, "attn_pooler_queries": 5}
    | {"output_tokens": True},
    "text_cfg": TEXT | {"width": 12, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 10, "vocab_size": 40, "width": 12, "heads": 2, "layers": 2},
}
"""A CoCa model whose three parts differ in size."""

HF: dict[str, dict[str, Any]] = {
    "roberta": {
        "model_type": "roberta", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "pad_token_id": 1,
        "num_attention_heads": 3, "intermediate_size": 32, "max_position_embeddings": 14, "type_vocab_size": 1,
    },
    "xlm-roberta": {
        "model_type": "xlm-roberta", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "pad_token_id": 1,
        "num_attention_heads": 3, "intermediate_size": 32, "max_position_embeddings": 14, "type_vocab_size": 1,
    },
    "mt5": {
        "model_type": "mt5", "vocab_size": 40, "d_model": 24, "d_ff": 32, "d_kv": 8, "num_layers": 3, "num_heads": 3,
        "num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0,
    },
    "m2m_100": {
        "model_type": "m2m_100", "vocab_size": 40, "d_model": 24, "encoder_layers": 3, "decoder_layers": 2,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 3, "decoder_attention_heads": 3,
        "encoder_layerdrop": 0, "decoder_layerdrop": 0, "max_position_embeddings": 14, "pad_token_id": 1,
    },
    "bert": {
        "model_type": "bert", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "pad_token_id": 0,
        "num_attention_heads": 3, "intermediate_size": 32, "max_position_embeddings": 14,
    },
    "distilbert": {
        "model_type": "distilbert", "vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 32,
        "max_position_embeddings": 14, "pad_token_id": 0,
    },
}  # fmt: skip
"""Shapes of Hugging Face text models."""


def resnet(**vision: Any) -> dict[str, Any]:
    """A CLIP configuration with a modified ResNet."""
    return {"embed_dim": 12, "vision_cfg": RESNET | vision, "text_cfg": TEXT}


def vit(custom_text: bool = False, **text: Any) -> dict[str, Any]:
    """A CLIP configuration of native towers."""
    return {"embed_dim": 12, "custom_text": custom_text, "vision_cfg": VIT, "text_cfg": TEXT | text}


def timm(name: str, **vision: Any) -> dict[str, Any]:
    """A CLIP configuration with a timm image tower."""
    section = {"timm_model_name": name, "image_size": 160} | {f"timm_{key}": value for key, value in vision.items()}
    return {"embed_dim": 12, "vision_cfg": section, "text_cfg": TEXT}


def hf_folder(folder: Path, kind: str) -> str:
    """A folder with the configuration of a tiny Hugging Face model; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("config.json").write_text(json.dumps(HF[kind]), encoding="utf-8")
    return str(folder)


def hf(folder: str, **text: Any) -> dict[str, Any]:
    """A CLIP configuration with a Hugging Face text tower."""
    section = {"hf_model_name": folder, "hf_model_pretrained": False, "vocab_size": 40, "context_length": 10}
    return {"embed_dim": 12, "vision_cfg": VIT, "text_cfg": section | text}


def images(size: int, rows: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random normalised images [rows, 3, size, size]."""
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def texts(rows: int = 3, length: int = 10, vocabulary: int = 40, pad: int = 0) -> Tensor:
    """Token ids [rows, length] of different lengths, with padding behind."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, vocabulary - 1, (rows, length), generator=generator)
    for row in range(rows):
        end = length - 1 - 2 * row
        ids[row, end] = vocabulary - 1
        ids[row, end + 1 :] = pad
    return ids


def fill(model: nn.Module, sharpness: float = 1.0) -> None:
    """Give every parameter random values that depend on its place in the sorted names alone.

    Args:
        model: to fill.
        sharpness: factor on matrices; large ones make outputs differ much from input to input.
    """
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(model.named_parameters())):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            if parameter.ndim < 2:
                parameter.copy_(0.3 * values + (not name.endswith("bias")))
            else:
                parameter.copy_(values * sharpness / parameter[0].numel() ** 0.5)


def look_hard(coca: Any) -> None:
    """Make the captions of a CoCa model depend much on the image, and end now and then."""
    with torch.no_grad():
        coca.visual.conv1.weight.mul_(20)
        coca.visual.class_embedding.zero_()
        coca.visual.positional_embedding.zero_()
        coca.visual.attn_pool.query.mul_(4)
        for block in coca.text_decoder.cross_attn:
            block.attn.out_proj.weight.mul_(10)
        coca.text_decoder.text_projection[:, -1].mul_(2)


def trainable(model: nn.Module) -> set[str]:
    """Names of the parameters that are trained."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def oracle(config: dict[str, Any]) -> nn.Module:
    """OpenCLIP's model of a configuration."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    if "multimodal_cfg" in config:
        model: nn.Module = CoCa(**arguments)
    elif config.get("custom_text") or "hf_model_name" in config["text_cfg"]:
        model = CustomTextCLIP(**arguments)
    else:
        model = CLIP(**arguments)
    return model
