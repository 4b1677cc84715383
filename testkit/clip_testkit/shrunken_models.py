"""Small copies of the models of OpenCLIP: the same options and the same kinds of parts, fewer and narrower layers.

They make it cheap to run a model of ours beside OpenCLIP's for every configuration there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from clip_trainer.model import ClipConfig

_WIDTH = 24
_TIMM_WIDTH = 64
_TRANSFORMER = {"depth": 1, "embed_dim": _TIMM_WIDTH, "num_heads": 2}
_TIMM_SIZES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("convnext", {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, _TIMM_WIDTH)}),
    ("fastvit", {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, _TIMM_WIDTH)}),
    ("swin", {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2)}),
    ("vit_base_mci", {"depth": 1}),  # the width of its stem is fixed
    ("eva", _TRANSFORMER),
    ("vit", _TRANSFORMER),
)


def shrunken(config: ClipConfig, folder: Path) -> ClipConfig:
    """A small model with the options of `config`.

    Args:
        config: of a model of OpenCLIP.
        folder: where configurations of small Hugging Face models may be written.
    """
    data: dict[str, Any] = config.to_dict()
    own_width = config.vision.timm_proj in (None, "none") and config.vision.kind == "timm"
    data["embed_dim"] = _TIMM_WIDTH if own_width else _WIDTH
    data["vision_cfg"] |= _VISION[config.vision.kind](config)
    tokens = {"vocab_size": 300, "context_length": min(16, config.text.context_length)}
    transformer = {"width": _WIDTH, "heads": 2, "layers": 2}
    if config.text.kind == "hf":
        data["text_cfg"]["hf_model_name"] = _small_hf(str(config.text.hf_model_name), folder)
        data["text_cfg"] |= tokens
    else:
        data["text_cfg"] |= transformer | tokens
    if config.multimodal is not None:
        data["multimodal_cfg"] |= transformer | tokens
    return ClipConfig.from_dict(data, "shrunken")


@contextmanager
def small_timm_models() -> Iterator[None]:
    """Let timm build its models with fewer and narrower layers, for both projects alike."""
    timm: Any = import_module("timm")
    original = timm.create_model

    def create(name: str, *args: Any, **kwargs: Any) -> Any:
        return original(name, *args, **{**kwargs, **_timm_size(name)})

    timm.create_model = create
    try:
        yield
    finally:
        timm.create_model = original


def _vit(config: ClipConfig) -> dict[str, Any]:
    assert isinstance(config.vision.patch_size, int)
    side = 2 * config.vision.patch_size
    heads = {"width": _WIDTH, "head_width": _WIDTH // 2, "layers": 2, "image_size": side}
    return heads | {"attn_pooler_queries": 4} if config.vision.attentional_pool else heads


def _resnet(config: ClipConfig) -> dict[str, Any]:
    return {"width": 8, "layers": [1, 1, 1, 1], "image_size": 64, "patch_size": None}


_VISION: dict[str, Callable[[ClipConfig], dict[str, Any]]] = {"vit": _vit, "resnet": _resnet, "timm": lambda config: {}}


def _timm_size(name: str) -> dict[str, Any]:
    if name.startswith("vitamin"):
        from timm.models.vitamin import VitCfg, VitConvCfg

        stages = (8, 16, _TIMM_WIDTH)
        convolutions = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        stem = VitCfg(embed_dim=stages, depths=(1, 1, 1), stem_width=8, conv_cfg=convolutions, head_type="1d")
        return {**_TRANSFORMER, "embed_cfg": stem}
    return next((size for start, size in _TIMM_SIZES if name.startswith(start)), {})


def _small_hf(name: str, folder: Path) -> str:
    """A folder with the configuration of a small model of the same architecture."""
    from clip_trainer.model.hf_architecture import hf_config

    fields = hf_config(name).to_dict()
    sizes = {
        "hidden_size": _WIDTH,
        "d_model": _WIDTH,
        "num_hidden_layers": 2,
        "num_layers": 2,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "num_decoder_layers": 1,
        "num_attention_heads": 2,
        "num_heads": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "intermediate_size": 48,
        "d_ff": 48,
        "d_kv": _WIDTH // 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "vocab_size": 300,
    }
    fields |= {key: value for key, value in sizes.items() if key in fields}
    target = folder / name.replace("/", "--")
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return str(target)
