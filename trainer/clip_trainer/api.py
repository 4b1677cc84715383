"""OpenCLIP's library interface: the same names, arguments and results, for code that changes only its import.

`import clip_trainer as open_clip` offers all of this; each name is imported on first use. What OpenCLIP 3.3.0 has and
this has not: `trace_model` (TorchScript), `push_to_hf_hub` and `push_pretrained_to_hf_hub` (uploads).
"""

from __future__ import annotations

from clip_trainer.eval.classifier import build_zero_shot_classifier, build_zero_shot_classifier_legacy
from clip_trainer.eval.prompts import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from clip_trainer.library.attached import get_model_preprocess_cfg, get_model_tokenize_cfg, set_model_preprocess_cfg
from clip_trainer.library.checkpoint import load_checkpoint, load_state_dict
from clip_trainer.library.create import create_model, create_model_and_transforms, create_model_from_pretrained
from clip_trainer.library.dtypes import (
    convert_weights_to_fp16,
    convert_weights_to_lp,
    get_cast_dtype,
    get_input_dtype,
)
from clip_trainer.library.names import get_model_config, list_models, parse_model_name
from clip_trainer.library.openai import list_openai_models, load_openai_model
from clip_trainer.library.tokenizers import get_tokenizer
from clip_trainer.loss.openclip import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss, create_loss
from clip_trainer.model.clip import CLIP
from clip_trainer.model.coca import CoCa
from clip_trainer.model.config import TextConfig as CLIPTextCfg
from clip_trainer.model.config import VisionConfig as CLIPVisionCfg
from clip_trainer.model.config import add_model_config
from clip_trainer.model.custom_text_clip import CustomTextCLIP
from clip_trainer.pretrained.compat import (
    download_pretrained,
    download_pretrained_from_hf,
    download_pretrained_from_url,
)
from clip_trainer.pretrained.registry import (
    get_pretrained_cfg,
    get_pretrained_url,
    is_pretrained_cfg,
    list_pretrained,
    list_pretrained_models_by_tag,
    list_pretrained_tags_by_model,
)
from clip_trainer.text import HFTokenizer, SigLipTokenizer, SimpleTokenizer, decode, tokenize
from clip_trainer.vision.pipeline import image_transform, image_transform_v2
from clip_trainer.vision.preprocess import OPENAI_MEAN as OPENAI_DATASET_MEAN
from clip_trainer.vision.preprocess import OPENAI_STD as OPENAI_DATASET_STD
from clip_trainer.vision.preprocess import AugmentationCfg, PreprocessCfg

__all__ = [
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
]
