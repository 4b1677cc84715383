"""clip_trainer: elastic, exactly-once CLIP training, and OpenCLIP's library interface (see `clip_trainer.api`).

Importing this package imports nothing else; names of the interface are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_trainer.api import *  # noqa: F403

# The names stand here too: looking for anything else, such as a submodule, must not import torch.
_INTERFACE = frozenset(
    {
        "CLIP",
        "IMAGENET_CLASSNAMES",
        "OPENAI_DATASET_MEAN",
        "OPENAI_DATASET_STD",
        "OPENAI_IMAGENET_TEMPLATES",
        "SIMPLE_IMAGENET_TEMPLATES",
        "AugmentationCfg",
        "CLIPTextCfg",
        "CLIPVisionCfg",
        "ClipLoss",
        "CoCa",
        "CoCaLoss",
        "CustomTextCLIP",
        "DistillClipLoss",
        "HFTokenizer",
        "PreprocessCfg",
        "SigLipLoss",
        "SigLipTokenizer",
        "SimpleTokenizer",
        "add_model_config",
        "build_zero_shot_classifier",
        "build_zero_shot_classifier_legacy",
        "convert_weights_to_fp16",
        "convert_weights_to_lp",
        "create_loss",
        "create_model",
        "create_model_and_transforms",
        "create_model_from_pretrained",
        "decode",
        "download_pretrained",
        "download_pretrained_from_hf",
        "download_pretrained_from_url",
        "get_cast_dtype",
        "get_input_dtype",
        "get_model_config",
        "get_model_preprocess_cfg",
        "get_model_tokenize_cfg",
        "get_pretrained_cfg",
        "get_pretrained_url",
        "get_tokenizer",
        "image_transform",
        "image_transform_v2",
        "is_pretrained_cfg",
        "list_models",
        "list_openai_models",
        "list_pretrained",
        "list_pretrained_models_by_tag",
        "list_pretrained_tags_by_model",
        "load_checkpoint",
        "load_openai_model",
        "load_state_dict",
        "parse_model_name",
        "set_model_preprocess_cfg",
        "tokenize",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _INTERFACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("clip_trainer.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_INTERFACE])
