"""What training images undergo beside the crop: mirroring, colours, gray, erasing. Every draw belongs to a sample."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from clip_trainer.data.order.prp import derive_key, mix64
from clip_trainer.vision.augmentation import ERASED_AREA, ERASED_RATIO
from clip_trainer.vision.color import ADJUSTMENTS, JitterRanges, to_gray
from clip_trainer.vision.geometry import Crop, KeyedStream
from clip_trainer.vision.preprocess import Preprocess
from clipctl.contract.sections import AugmentSection

# What the sample's key is used for. Each has a stream of its own, so turning one on leaves the others as they were.
_FLIP, _JITTER, _GRAY, _ERASE, _NOISE = 1, 2, 3, 4, 5


def vary(planes: Tensor, key: int, augment: AugmentSection, preprocess: Preprocess) -> Tensor:
    """Mirror, change colours, turn gray and erase, each with its probability, in this order.

    Args:
        planes: uint8 [3, height, width].
        key: 64 bits that decide every draw.
        augment: the probabilities and strengths.
        preprocess: mean and std of the noise in erased rectangles.
    """
    if _chosen(key, _FLIP, augment.flip_prob):
        planes = planes.flip(-1)
    jitter = augment.color_jitter if _chosen(key, _JITTER, augment.color_jitter_prob) else None
    gray = _chosen(key, _GRAY, augment.gray_scale_prob)
    if jitter is not None or gray:
        picture = Image.fromarray(planes.permute(1, 2, 0).contiguous().numpy())
        if jitter is not None:
            picture = _jittered(picture, JitterRanges.of(jitter), KeyedStream(derive_key(key, _JITTER, 1)))
        picture = to_gray(picture) if gray else picture
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    if _chosen(key, _ERASE, augment.erase_prob):
        planes = _erased(planes.clone(), key, augment.erase_count, preprocess)
    return planes


def _chosen(key: int, use: int, probability: float) -> bool:
    return probability > 0 and KeyedStream(derive_key(key, use)).uniform(0.0, 1.0) < probability


def _jittered(picture: Image.Image, jitter: JitterRanges, stream: KeyedStream) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order (Fisher and Yates), with random factors."""
    order = list(range(len(ADJUSTMENTS)))
    for last in range(len(order) - 1, 0, -1):
        other = stream.below(last + 1)
        order[last], order[other] = order[other], order[last]
    factors = [None if bounds is None else stream.uniform(*bounds) for bounds in jitter.ranges]
    for index in order:
        factor = factors[index]
        if factor is not None:
            picture = ADJUSTMENTS[index](picture, factor)
    return picture


def _erased(planes: Tensor, key: int, count: int, preprocess: Preprocess) -> Tensor:
    """Overwrite up to `count` rectangles with noise of the data's mean and std, in place (arXiv 1708.04896)."""
    stream = KeyedStream(derive_key(key, _ERASE, 1))
    _, height, width = planes.shape
    chosen = 1 + stream.below(count)
    for number in range(chosen):
        crop = _rectangle(height, width, chosen, stream)
        if crop is not None:
            noise = _noise(crop, derive_key(key, _NOISE, number), preprocess)
            planes[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = torch.from_numpy(noise)
    return planes


def _rectangle(height: int, width: int, count: int, stream: KeyedStream) -> Crop | None:
    for _ in range(10):
        area = height * width * stream.uniform(*ERASED_AREA) / count
        aspect = math.exp(stream.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            return Crop(stream.below(height - tall + 1), stream.below(width - wide + 1), tall, wide)
    return None


def _noise(crop: Crop, key: int, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Normal noise, of the channels' mean and std, as bytes: [3, height, width].

    After normalisation it is standard normal except that bytes end at black and at white.
    """
    shape = (3, crop.height, crop.width)
    counters = np.arange(2 * math.prod(shape), dtype=np.uint64).reshape(2, *shape)
    # 53 bits, moved off zero, of which the logarithm is not finite.
    uniform = ((mix64(mix64(counters) ^ np.uint64(key)) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * np.pi * uniform[1])  # Box and Muller, 1958
    mean = np.array(preprocess.mean).reshape(3, 1, 1)
    std = np.array(preprocess.std).reshape(3, 1, 1)
    noise: npt.NDArray[np.uint8] = np.clip(np.rint(255.0 * (mean + std * normal)), 0, 255).astype(np.uint8)
    return noise
