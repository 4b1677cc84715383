"""Evaluation pixels equal OpenCLIP's transform, training pixels its crop and resize."""

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from clip_testkit.pictures import MODES, picture
from clip_trainer.vision import (
    OPENAI_MEAN,
    OPENAI_STD,
    Preprocess,
    decode_image,
    eval_transform,
    normalize,
    train_transform,
)
from clip_trainer.vision.color import ADJUSTMENTS, to_gray
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


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [40, (24, 56), (56, 24)])
def test_evaluation_of_every_mode_is_bit_equal(open_clip, resize_mode, interpolation, target):
    from open_clip.transform import image_transform

    preprocess = Preprocess((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation, resize_mode, fill_color=123)
    theirs = image_transform(target, is_train=False, **asdict(preprocess))
    for height, width in SIZES:
        if resize_mode == "longest" and max(height, width) > 50 * min(height, width):
            continue  # theirs fails where a side rounds to nothing
        image = noise(height, width)
        pixels = eval_transform(image, target, preprocess)
        assert torch.equal(normalize(pixels[None], preprocess.mean, preprocess.std)[0], theirs(Image.fromarray(image)))


FILE_FORMATS = {
    "RGB": "PNG",
    "CMYK": "JPEG",
    "YCbCr": "JPEG",
    "LAB": "TIFF",
    "F": "TIFF",
    "I": "TIFF",
    "PA": None,
    "HSV": None,
}


@pytest.mark.parametrize("mode", [mode for mode in MODES if FILE_FORMATS.get(mode, "PNG")])
def test_decoded_files_equal_what_openclip_reads(mode):
    """WebDataset's `pilrgb`, which OpenCLIP trains with, and ImageFolder: open, convert to RGB."""
    buffer = io.BytesIO()
    picture(37, 53, mode).save(buffer, FILE_FORMATS.get(mode, "PNG"))
    try:
        expected = np.asarray(Image.open(buffer).convert("RGB"))
    except ValueError:
        with pytest.raises(ValueError, match="damaged"):
            decode_image(buffer.getvalue())
        return
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), expected)


@pytest.mark.parametrize("index", range(4))
def test_colour_changes_are_torchvisions(open_clip, index):
    from torchvision.transforms import functional

    name = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")[index]
    factors = np.linspace(-0.5, 0.5, 41) if name == "adjust_hue" else np.linspace(0, 2.5, 41)
    for mode in ("RGB", "L"):
        image = picture(33, 47, mode)
        for factor in factors.tolist():
            expected = getattr(functional, name)(image, factor)
            np.testing.assert_array_equal(np.asarray(ADJUSTMENTS[index](image, factor)), np.asarray(expected))


def test_gray_is_torchvisions(open_clip):
    from torchvision.transforms import functional

    image = picture(33, 47)
    np.testing.assert_array_equal(np.asarray(to_gray(image)), np.asarray(functional.to_grayscale(image, 3)))


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
