"""Pixels to model input in training and evaluation: cut, resize, vary, normalise.

Images stay uint8 until they are on the device (a quarter of the bytes to move); `normalize` finishes there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clip_trainer.vision.decode import Pixels
from clip_trainer.vision.geometry import KeyedStream, central_part, random_crop
from clip_trainer.vision.preprocess import OPENAI_PREPROCESS, Preprocess
from clip_trainer.vision.resizing import Size, evaluation_steps, height_width
from clip_trainer.vision.variation import vary
from clipctl.contract.sections import AugmentSection

_ONLY_CROP = AugmentSection()


def train_transform(
    image: Pixels | Tensor,
    size: Size,
    key: int,
    augment: AugmentSection = _ONLY_CROP,
    preprocess: Preprocess = OPENAI_PREPROCESS,
) -> Tensor:
    """A random crop, resized, and what else the run's `data.augment` asks for.

    Args:
        image: uint8 RGB [height, width, 3].
        size: side, or height and width, of the result in pixels.
        key: 64 bits that decide every draw; nothing else does (no global generator, no clock, no worker number).
        augment: by default OpenCLIP's, only the crop.
        preprocess: mean and std of the noise that erased rectangles are filled with.

    Returns:
        uint8 [3, height, width], the channels of a pixel together in memory.
    """
    pixels = np.asarray(image)
    stream = KeyedStream(key)
    scale, ratio = (augment.scale[0], augment.scale[1]), (augment.ratio[0], augment.ratio[1])
    crop = random_crop(pixels.shape[0], pixels.shape[1], stream, scale, ratio)
    # Copied row by row, which torch would do too, but slowly; and writable, or torch warns.
    cut = np.require(crop.of(pixels), requirements=("C", "W"))
    # The batch dimension comes first: only then does torch see channels-last memory, for which it has a fast path.
    planes = torch.from_numpy(cut)[None].permute(0, 3, 1, 2)
    # Pillow's bicubic filter with its antialiasing, on uint8 (within 2/255 of Pillow itself).
    resized = functional.interpolate(planes, size=height_width(size), mode="bicubic", antialias=True)
    return vary(resized[0], key, augment, preprocess)


def eval_transform(image: Pixels | Tensor, size: Size, preprocess: Preprocess = OPENAI_PREPROCESS) -> Tensor:
    """What OpenCLIP's evaluation transform does, up to the normalisation.

    Pillow resizes, as in OpenCLIP, so the pixels are the same. An image longer than 512:1 of which only the centre is
    used is first cut to that ratio: a strip of one pixel by a million would need gigabytes.

    Args:
        image: uint8 RGB [height, width, 3].
        size: side, or height and width, of the result in pixels.
        preprocess: how to resize.

    Returns:
        uint8 [3, height, width].
    """
    pixels = np.asarray(image)
    if preprocess.resize_mode == "shortest":
        pixels = central_part(pixels.shape[0], pixels.shape[1]).of(pixels)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    for step in evaluation_steps(size, preprocess.resize_mode, preprocess.interpolation, preprocess.fill_color):
        picture = step(picture)
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())


def normalize(batch: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """(x / 255 - mean) / std, computed in float32 on the batch's device.

    Args:
        batch: uint8 [n, 3, height, width].
        mean: per channel, 0 to 1.
        std: per channel.
        dtype: of the result.
    """
    # x/255 first and the subtraction second, as OpenCLIP does, so that equal pixels give equal inputs.
    shape = (1, len(mean), 1, 1)
    means = torch.tensor(mean, dtype=torch.float32, device=batch.device).reshape(shape)
    stds = torch.tensor(std, dtype=torch.float32, device=batch.device).reshape(shape)
    return batch.to(torch.float32).div_(255).sub_(means).div_(stds).to(dtype)
