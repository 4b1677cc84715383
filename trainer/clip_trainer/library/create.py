"""`create_model` and its variants, with OpenCLIP's arguments and results.

The arguments of all of them:

* `model_name`: built-in name, `hf-hub:org/repo`, `local-dir:PATH`, or the address of a folder (`s3://bucket/model`).
* `pretrained`: tag, file or address of the weights; names with a scheme bring their own.
* `load_weights`: false builds the model of these weights, but does not load them.
* `precision`: see `clip_trainer.model.precision`. `device`: where to put it.
* `jit`: no effect; TorchScript is not supported (a warning says so).
* `force_quick_gelu`: use QuickGELU, whatever the configuration says. `force_custom_text`: keep the text tower below
  `text.`. `force_patch_dropout`: share of patches left out in training.
* `force_image_size`, `force_context_length`: sizes; position embeddings are resized.
* `force_preprocess_cfg`, or `image_mean`, `image_std`, `image_interpolation`, `image_resize_mode`: changes of the
  preprocessing. `aug_cfg`: augmentation of training images.
* `pretrained_image`: without other weights, take timm's for a timm image tower; `pretrained_text`: the published ones
  of a Hugging Face text tower.
* `pretrained_image_path`, `pretrained_text_path`: file with weights of one tower, loaded last, as far as names match.
* `cache_dir`: where fetched files are kept. `output_dict`: let `forward` return dicts.
* `require_pretrained`: fail if no weights of the whole model were loaded.
* `weights_only`: no effect: files are never unpickled in a way that could run code.
* `**model_kwargs`: further fields of the configuration (`init_logit_bias`, `quick_gelu`, ...), applied last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_trainer.library import assemble
from clip_trainer.library.assemble import ImageSize, Overrides, Start
from clip_trainer.library.names import UnknownModelError, parse_model_name, unknown_model
from clip_trainer.library.source import Source, find_source
from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.config import model_names
from clip_trainer.vision.pipeline import image_transform_v2
from clip_trainer.vision.preprocess import AugmentationCfg, PreprocessCfg
from clip_trainer.weights.load import load_state
from clip_trainer.weights.read import read_weights
from clipctl.contract.errors import ClipError, MissingError

_log = logging.getLogger(__name__)
Transform = Callable[..., torch.Tensor]


class WeightsUnavailableError(MissingError, RuntimeError):
    """The weights that were asked for could not be had (a RuntimeError in OpenCLIP)."""


def create_model(
    model_name: str,
    pretrained: str | None = None,
    load_weights: bool = True,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_patch_dropout: float | None = None,
    force_image_size: ImageSize | None = None,
    force_preprocess_cfg: Mapping[str, Any] | None = None,
    force_context_length: int | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = True,
    pretrained_image_path: str | None = None,
    pretrained_text_path: str | None = None,
    cache_dir: str | None = None,
    output_dict: bool | None = None,
    require_pretrained: bool = False,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> ClipModel:
    """A model in training mode, with the weights asked for, or fresh ones drawn from torch's global generator.

    Raises:
        RuntimeError: unknown model; weights that cannot be had, do not fit, or were made with the other activation
            (unless `force_quick_gelu` or `quick_gelu` was given).
        ClipError: all of these, and every other failure with a remedy.
    """
    pretrained_text = bool(model_kwargs.pop("pretrained_hf", pretrained_text))
    output_dict = bool(output_dict or model_kwargs.pop("output_dict", False))
    model_kwargs.pop("cast_dtype", None)
    overrides = Overrides(
        quick_gelu=True if force_quick_gelu else None,
        custom_text=force_custom_text,
        patch_dropout=force_patch_dropout,
        image_size=force_image_size,
        context_length=force_context_length,
        preprocess=force_preprocess_cfg or {},
        fields=model_kwargs,
    )
    source = _find(model_name, pretrained, cache_dir)
    path = _fetch(source, cache_dir, required=require_pretrained) if load_weights or require_pretrained else None
    own_weights = pretrained_image and not pretrained_image_path, pretrained_text and not pretrained_text_path
    model = _build(source, overrides, path, own_weights, precision, device)
    for part, file in (("visual", pretrained_image_path), ("text", pretrained_text_path)):
        if file:
            _load_tower(model, part, file)
    assemble.complete(model, source, overrides)
    model.output_dict = output_dict
    if jit:
        _log.warning("jit=True has no effect: TorchScript is not supported.")
    return model


def create_model_and_transforms(
    model_name: str,
    pretrained: str | None = None,
    load_weights: bool = True,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_patch_dropout: float | None = None,
    force_image_size: ImageSize | None = None,
    force_context_length: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = True,
    pretrained_image_path: str | None = None,
    pretrained_text_path: str | None = None,
    cache_dir: str | None = None,
    output_dict: bool | None = None,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> tuple[ClipModel, Transform, Transform]:
    """A model, the transform of its training images and that of its evaluation images.

    Raises as `create_model` does.
    """
    model = create_model(
        model_name,
        pretrained,
        load_weights=load_weights,
        precision=precision,
        device=device,
        jit=jit,
        force_quick_gelu=force_quick_gelu,
        force_custom_text=force_custom_text,
        force_patch_dropout=force_patch_dropout,
        force_image_size=force_image_size,
        force_preprocess_cfg=_changes(image_mean, image_std, image_interpolation, image_resize_mode),
        force_context_length=force_context_length,
        pretrained_image=pretrained_image,
        pretrained_text=pretrained_text,
        pretrained_image_path=pretrained_image_path,
        pretrained_text_path=pretrained_text_path,
        cache_dir=cache_dir,
        output_dict=output_dict,
        weights_only=weights_only,
        **model_kwargs,
    )
    return model, _transform(model, is_train=True, aug_cfg=aug_cfg), _transform(model, is_train=False)


def create_model_from_pretrained(
    model_name: str,
    pretrained: str | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_image_size: ImageSize | None = None,
    force_context_length: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    return_transform: bool = True,
    cache_dir: str | None = None,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> ClipModel | tuple[ClipModel, Transform]:
    """A model with weights, which must exist, and the transform of its evaluation images.

    Without `return_transform` the model alone is returned. Raises as `create_model` does.
    """
    model = create_model(
        model_name,
        pretrained,
        precision=precision,
        device=device,
        jit=jit,
        force_quick_gelu=force_quick_gelu,
        force_custom_text=force_custom_text,
        force_image_size=force_image_size,
        force_preprocess_cfg=_changes(image_mean, image_std, image_interpolation, image_resize_mode),
        force_context_length=force_context_length,
        cache_dir=cache_dir,
        require_pretrained=True,
        weights_only=weights_only,
        **model_kwargs,
    )
    return (model, _transform(model, is_train=False)) if return_transform else model


def _find(model_name: str, pretrained: str | None, cache_dir: str | None) -> Source:
    scheme, _ = parse_model_name(model_name)
    if scheme is None and model_name.replace("/", "-") not in model_names():
        try:
            find_source(model_name)
        except ClipError as error:
            raise unknown_model(error) from None
        raise UnknownModelError(f"There is no model called {model_name!r}.")
    if scheme is not None and pretrained:
        _log.warning("pretrained=%r is ignored: %s brings its own weights.", pretrained, model_name)
        pretrained = None
    return find_source(model_name, pretrained, cache_dir)


def _fetch(source: Source, cache_dir: str | None, *, required: bool) -> Path | None:
    try:
        path = source.fetch(cache_dir)
    except ClipError as error:
        raise WeightsUnavailableError(error.problem, hint=error.hint, code=error.code) from error
    if required and path is None:
        raise WeightsUnavailableError(
            f"No weights are given for {source.name}.", hint="Name a tag, a file or an address."
        )
    return path


def _build(
    source: Source,
    overrides: Overrides,
    path: Path | None,
    own_weights: tuple[bool, bool],
    precision: str,
    device: str | torch.device,
) -> ClipModel:
    """The model with the weights in `path`, or else, tower by tower, the library's own or fresh ones."""
    image, text = (wanted and path is None for wanted in own_weights)
    start = Start(int(torch.randint(2**62, ())), pretrained_image=image, pretrained_text=text)
    model = assemble.build(source, overrides, start, precision=precision, device=device)
    if path is not None:
        assemble.load(model, source, overrides, path)
    return model


def _load_tower(model: ClipModel, part: str, path: str) -> None:
    """Weights of one tower alone, as far as their names are those of the tower."""
    tower: nn.Module = getattr(model, part, model)
    missing, unexpected = load_state(tower, read_weights(path).state_dict, strict=False, source=path)
    _log.info("%s into %s: %d tensors missing, %d not used.", path, part, len(missing), len(unexpected))


def _changes(mean: object, std: object, interpolation: object, resize_mode: object) -> dict[str, Any]:
    return {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}


def _transform(
    model: ClipModel, *, is_train: bool, aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None
) -> Transform:
    visual: Any = model.visual
    transform: Transform = image_transform_v2(
        PreprocessCfg(**visual.preprocess_cfg), is_train=is_train, aug_cfg=aug_cfg
    )
    return transform
