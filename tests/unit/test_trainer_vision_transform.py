"""Augmentation, evaluation transform and normalisation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_trainer.vision import OPENAI_MEAN, OPENAI_STD, eval_transform, normalize, train_transform
from clip_trainer.vision.geometry import KeyedStream, random_crop
from clipctl.contract.sections import AugmentSection


def picture(height=90, width=70, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_the_key_alone_decides_the_augmentation():
    image = picture()
    torch.manual_seed(0)
    first = train_transform(image, 32, 77)
    torch.manual_seed(1)
    np.random.default_rng().random()
    assert torch.equal(first, train_transform(image, 32, 77))
    assert not torch.equal(first, train_transform(image, 32, 78))


def test_global_randomness_is_not_moved():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_transform(picture(), 32, 5)
    eval_transform(picture(), 32)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("key", range(8))
def test_training_pixels_are_pillows_within_two_levels(key):
    image = picture(seed=key)
    crop = random_crop(90, 70, KeyedStream(key), (0.9, 1.0), (3 / 4, 4 / 3))
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    expected = np.asarray(Image.fromarray(image).crop(box).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(train_transform(image, 32, key).permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.05


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 80), width=st.integers(1, 80), size=st.sampled_from([8, 32]), key=st.integers(0, 2**64 - 1)
)
def test_any_size_of_image_gives_the_size_asked_for(height, width, size, key):
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    for shape in (size, (size, 2 * size + 1)):
        for result in (train_transform(image, shape, key), eval_transform(image, shape)):
            check(result, (size, size) if shape == size else shape)


def check(result, shape):
    assert result.shape == (3, *shape)
    assert result.dtype == torch.uint8
    assert result.is_contiguous() or result.permute(1, 2, 0).is_contiguous()
    assert (result == 128).all()


def test_tensors_and_read_only_arrays_are_fine():
    image = picture()
    frozen = image.copy()
    frozen.setflags(write=False)
    tensor = torch.from_numpy(image.copy())
    for transform in (lambda x: train_transform(x, 16, 3), lambda x: eval_transform(x, 16)):
        assert torch.equal(transform(tensor), transform(frozen))


def test_a_small_scale_zooms_in():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 32:] = 255
    whole = AugmentSection(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    wide = train_transform(image, 16, 9, whole)
    assert wide[0, 8, 0] == 0
    assert wide[0, 8, -1] == 255
    near = [train_transform(image, 16, key, AugmentSection(scale=(0.02, 0.02))) for key in range(20)]
    assert any(len(crop.unique()) == 1 for crop in near)


def test_evaluation_takes_the_centre():
    image = np.zeros((30, 90, 3), dtype=np.uint8)
    image[:, 30:60] = 200
    assert (eval_transform(image, 30) == 200).all()


def test_a_strip_needs_no_memory_for_its_whole_length():
    image = np.zeros((1, 2_000_000, 3), dtype=np.uint8)
    image[:, 999_900:1_000_100] = 90
    assert (eval_transform(image, 224) == 90).all()


def test_normalisation():
    batch = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    result = normalize(batch, OPENAI_MEAN, OPENAI_STD)
    assert result.dtype == torch.float32
    for channel in range(3):
        assert result[0, channel, 0, 0].item() == pytest.approx(-OPENAI_MEAN[channel] / OPENAI_STD[channel], rel=1e-6)
        expected = (1 - OPENAI_MEAN[channel]) / OPENAI_STD[channel]
        assert result[1, channel, 0, 0].item() == pytest.approx(expected, rel=1e-6)
    assert batch[1, 0, 0, 0] == 255


def test_normalisation_to_another_type_rounds_once():
    batch = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    exact = normalize(batch, OPENAI_MEAN, OPENAI_STD)
    assert torch.equal(normalize(batch, OPENAI_MEAN, OPENAI_STD, torch.bfloat16), exact.bfloat16())


def test_decoding_does_not_import_torch():
    code = "import sys; from clip_trainer.vision import decode_image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
