"""From run.yaml and model to the transforms of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_testkit.pictures import picture
from clip_trainer.vision import OPENAI_PREPROCESS, Preprocess, eval_transform, train_transform, transforms_for
from clipctl.contract.sections import AugmentSection, PreprocessSection

PIXELS = np.asarray(picture(50, 70))


def model(image_size=32, **visual):
    return SimpleNamespace(visual=SimpleNamespace(image_size=image_size, **visual))


def test_defaults_are_openais():
    transforms = transforms_for(model())
    assert transforms.image_size == (32, 32)
    assert transforms.preprocess == OPENAI_PREPROCESS
    assert transforms.augment == AugmentSection()
    assert torch.equal(transforms.train(PIXELS, 9), train_transform(PIXELS, 32, 9))
    assert torch.equal(transforms.evaluate(PIXELS), eval_transform(PIXELS, 32))


def test_what_the_weights_ask_for_counts_and_the_run_overrides_it():
    asked = {"size": 99, "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    there = model((24, 40), preprocess_cfg=asked)
    assert transforms_for(there).preprocess == Preprocess((0.5,) * 3, (0.5,) * 3, resize_mode="squash")
    transforms = transforms_for(there, PreprocessSection(mean=(0.1, 0.2, 0.3), interpolation="bilinear"))
    assert transforms.preprocess == Preprocess((0.1, 0.2, 0.3), (0.5,) * 3, "bilinear", "squash")
    assert transforms.image_size == (24, 40)
    assert transforms.train(PIXELS, 1).shape == (3, 24, 40)
    assert torch.equal(transforms.evaluate(PIXELS), eval_transform(PIXELS, (24, 40), transforms.preprocess))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_of_the_run_reaches_the_pixels(mode, interpolation):
    section = PreprocessSection(resize_mode=mode, interpolation=interpolation)
    result = transforms_for(model(), section).evaluate(PIXELS)
    expected = eval_transform(PIXELS, 32, Preprocess(resize_mode=mode, interpolation=interpolation))
    assert torch.equal(result, expected)
    assert torch.equal(result, eval_transform(PIXELS, 32)) == ((mode, interpolation) == ("shortest", "bicubic"))


@pytest.mark.parametrize(
    "augment",
    [
        {"scale": (0.1, 0.3)},
        {"scale": (0.9, 0.9), "ratio": (1.0, 1.0)},
        {"color_jitter": (0.4, 0.4, 0.4, 0.1), "color_jitter_prob": 1.0},
        {"gray_scale_prob": 1.0},
        {"flip_prob": 1.0},
        {"erase_prob": 1.0},
        {"erase_prob": 1.0, "erase_count": 5},
    ],
)
def test_every_augmentation_of_the_run_reaches_the_pixels(augment):
    transforms = transforms_for(model(), augment=AugmentSection(**augment))
    assert not torch.equal(transforms.train(PIXELS, 9), train_transform(PIXELS, 32, 9))
    assert torch.equal(transforms.evaluate(PIXELS), eval_transform(PIXELS, 32))


def test_the_noise_of_erasing_has_the_runs_statistics():
    pixels = np.full((64, 64, 3), 250, dtype=np.uint8)
    dark = PreprocessSection(mean=(0.1,) * 3, std=(0.02,) * 3)
    erased = transforms_for(model(), dark, AugmentSection(erase_prob=1.0)).train(pixels, 3)
    assert 15 < erased[erased != 250].float().mean() < 36
