"""Evaluation pixels equal OpenCLIP's transform, training pixels its crop and resize."""

import numpy as np
import pytest
import torch
from PIL import Image

from clip_trainer.vision import OPENAI_MEAN, OPENAI_STD, eval_transform, normalize, train_transform
from clip_trainer.vision.geometry import KeyedStream, random_crop

pytestmark = pytest.mark.parity
SIZES = [
    (333, 217),
    (217, 333),
    (1, 1000),
    (1000, 1),
    (3, 1000),
    (997, 5),
    (30, 31),
    (64, 64),
    (8, 8),
    (1, 1),
    (500, 37),
]


def noise(height, width):
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [32, 64, 100])
def test_evaluation_is_bit_equal(open_clip, height, width, size):
    from open_clip.transform import image_transform

    image = noise(height, width)
    expected = image_transform(size, is_train=False)(Image.fromarray(image))
    actual = normalize(eval_transform(image, size).unsqueeze(0), OPENAI_MEAN, OPENAI_STD)[0]
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("key", range(12))
def test_training_crops_are_resized_as_torchvision_does(open_clip, key):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resized_crop

    image = noise(120 + key * 7, 150)
    crop = random_crop(*image.shape[:2], KeyedStream(key), (0.9, 1.0), (3 / 4, 4 / 3))
    box = (crop.top, crop.left, crop.height, crop.width)
    expected = resized_crop(Image.fromarray(image), *box, [64, 64], InterpolationMode.BICUBIC)
    actual = train_transform(image, 64, key).permute(1, 2, 0).numpy().astype(int)
    difference = np.abs(actual - np.asarray(expected).astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_crops_are_distributed_like_torchvisions(open_clip):
    """Mean position and size over 3,000 draws, within four standard errors of the difference."""
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, 240, 260)
    scale, ratio = (0.5, 1.0), (3 / 4, 4 / 3)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(3000)], dtype=float)
    ours = [random_crop(240, 260, KeyedStream(key), scale, ratio) for key in range(3000)]
    mine = np.array([(crop.top, crop.left, crop.height, crop.width) for crop in ours], dtype=float)
    error = np.sqrt(theirs.var(axis=0) / len(theirs) + mine.var(axis=0) / len(mine))
    assert (np.abs(theirs.mean(axis=0) - mine.mean(axis=0)) < 4 * error).all()
