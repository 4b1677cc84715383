"""OpenCLIP's `image_transform`: a Pillow image to a normalised float tensor, without torchvision or timm."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clip_trainer.vision.augmentation import (
    DEFAULT_RATIO,
    ColorJitter,
    RandomColorJitter,
    RandomErasing,
    RandomGrayscale,
    RandomResizedCrop,
    TimmRandomResizedCrop,
)
from clip_trainer.vision.preprocess import OPENAI_MEAN, OPENAI_STD, RESIZE_MODES, AugmentationCfg, PreprocessCfg
from clip_trainer.vision.resizing import Size, evaluation_steps
from clip_trainer.vision.tensors import Compose, MaybeConvertMode, MaybeToTensor, Normalize

_Steps = list[Callable[[Any], Any]]


def image_transform(
    image_size: Size,
    is_train: bool,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize_mode: str | None = None,
    interpolation: str | None = None,
    fill_color: int = 0,
    aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None,
) -> Compose:
    """Make the transform of training or evaluation.

    Args:
        image_size: side, or height and width, of the result in pixels.
        is_train: augment (random numbers from the global generators) in place of resizing and cutting the centre.
        mean: per channel, 0 to 1; default: OpenAI's.
        std: per channel; default: OpenAI's.
        resize_mode: `shortest` (default), `longest` or `squash`; evaluation only.
        interpolation: `bicubic` (default), `bilinear`, or `random` (training with `use_timm`; otherwise bicubic).
        fill_color: padding of `longest`, 0 to 255.
        aug_cfg: what to augment with; fields of `AugmentationCfg`.

    Raises:
        ValueError: an argument is none of these.
    """
    interpolation, resize_mode = interpolation or "bicubic", resize_mode or "shortest"
    if interpolation not in ("bicubic", "bilinear", "random"):
        raise ValueError(f"interpolation is bicubic, bilinear or random, not {interpolation}")
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode is one of {', '.join(RESIZE_MODES)}, not {resize_mode}")
    augment = aug_cfg if isinstance(aug_cfg, AugmentationCfg) else AugmentationCfg(**(aug_cfg or {}))
    normalize = Normalize(_channels(mean or OPENAI_MEAN), _channels(std or OPENAI_STD))
    if not is_train:
        fixed = "bilinear" if interpolation == "bilinear" else "bicubic"
        steps = evaluation_steps(image_size, resize_mode, fixed, fill_color)
        return Compose([*steps, MaybeConvertMode(), MaybeToTensor(), normalize])
    if augment.use_timm:
        return Compose(_timm_training(image_size, interpolation, augment, normalize))
    return Compose([*_training(image_size, augment), MaybeToTensor(), normalize])


def image_transform_v2(
    cfg: PreprocessCfg, is_train: bool, aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None
) -> Compose:
    """`image_transform` with everything but the augmentation from a `PreprocessCfg`."""
    return image_transform(
        image_size=cfg.size,
        is_train=is_train,
        mean=cfg.mean,
        std=cfg.std,
        interpolation=cfg.interpolation,
        resize_mode=cfg.resize_mode,
        fill_color=cfg.fill_color,
        aug_cfg=aug_cfg,
    )


def _training(size: Size, augment: AugmentationCfg) -> _Steps:
    steps: _Steps = [RandomResizedCrop(size, scale=augment.scale), MaybeConvertMode()]
    if augment.color_jitter_prob:
        strengths = augment.color_jitter
        if not isinstance(strengths, Sequence) or len(strengths) != 4:
            raise ValueError("color_jitter_prob needs color_jitter with four strengths")
        steps.append(RandomColorJitter(strengths, augment.color_jitter_prob))
    if augment.gray_scale_prob:
        steps.append(RandomGrayscale(augment.gray_scale_prob))
    unused = [name for name in ("ratio", "re_prob", "re_count") if getattr(augment, name) is not None]
    if augment.color_jitter is not None and not augment.color_jitter_prob:
        unused.append("color_jitter")
    if unused:
        warnings.warn(f"Unused augmentation cfg items, specify `use_timm` to use ({unused}).", stacklevel=3)
    return steps


def _timm_training(size: Size, interpolation: str, augment: AugmentationCfg, normalize: Normalize) -> _Steps:
    """Timm's `create_transform` with OpenCLIP's arguments: no flip, erasing with noise for each pixel."""
    ratio = augment.ratio or DEFAULT_RATIO
    steps: _Steps = [TimmRandomResizedCrop(size, augment.scale, ratio, interpolation), MaybeConvertMode()]
    jitter = augment.color_jitter
    if jitter is not None:
        strengths = jitter if isinstance(jitter, Sequence) else (float(jitter),) * 3
        if len(strengths) not in (3, 4):
            raise ValueError("color_jitter has one, three or four strengths")
        steps.append(ColorJitter(*strengths))
    steps += [MaybeToTensor(), normalize]
    if augment.re_prob:
        steps.append(RandomErasing(augment.re_prob, augment.re_count or 1))
    return steps


def _channels(value: float | Sequence[float]) -> tuple[float, ...]:
    return (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
