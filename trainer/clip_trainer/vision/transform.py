"""Pixels to model input: crop, resize, normalise.

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
from clip_trainer.vision.geometry import KeyedStream, central_part, central_square, random_crop, shortest_side_size


def train_transform(
    image: Pixels | Tensor,
    size: int,
    key: int,
    *,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """A random crop resized to a square: OpenCLIP's training augmentation.

    Args:
        image: uint8 RGB [height, width, 3].
        size: side of the result, pixels.
        key: 64 bits that decide the crop; nothing else does (no global generator, no clock, no worker number).
        scale: least and greatest fraction of the image's area.
        ratio: least and greatest aspect ratio of the crop.

    Returns:
        uint8 [3, size, size].
    """
    pixels = np.asarray(image)
    crop = random_crop(pixels.shape[0], pixels.shape[1], KeyedStream(key), scale, ratio)
    # torch warns about read-only memory; only then is the crop copied.
    cut = np.require(crop.of(pixels), requirements="W")
    planes = torch.from_numpy(cut).permute(2, 0, 1).unsqueeze(0)
    # Pillow's bicubic filter with its antialiasing, on uint8 (within 2/255 of Pillow itself).
    resized = functional.interpolate(planes, size=(size, size), mode="bicubic", antialias=True)
    return resized[0].contiguous()


def eval_transform(image: Pixels | Tensor, size: int) -> Tensor:
    """The centre of the image, its shorter side scaled to `size`: OpenCLIP's evaluation transform.

    Pillow resizes, as in OpenCLIP, so the pixels are the same. An image longer than 512:1 is first cut to that ratio
    around its centre, of which nothing else is used: a strip of one pixel by a million would need gigabytes.

    Args:
        image: uint8 RGB [height, width, 3].
        size: side of the result, pixels.

    Returns:
        uint8 [3, size, size].
    """
    pixels = np.asarray(image)
    pixels = central_part(pixels.shape[0], pixels.shape[1]).of(pixels)
    height, width = shortest_side_size(pixels.shape[0], pixels.shape[1], size)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)
    square = central_square(height, width, size).of(np.asarray(resized))
    return torch.from_numpy(square.transpose(2, 0, 1).copy())


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
