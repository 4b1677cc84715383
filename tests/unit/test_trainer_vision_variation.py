"""Mirroring, colours, gray and erasing of training images: keyed by the sample, with the frequencies asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.pictures import picture
from clip_trainer.vision import OPENAI_PREPROCESS, Preprocess, normalize, train_transform
from clip_trainer.vision.variation import vary
from clipctl.contract.sections import AugmentSection

PLANES = torch.from_numpy(np.asarray(picture(24, 32)).transpose(2, 0, 1).copy())
JITTER = (0.4, 0.4, 0.4, 0.1)


def varied(key=1, preprocess=OPENAI_PREPROCESS, **augment):
    return vary(PLANES, key, AugmentSection(**augment), preprocess)


def share(changed, draws=2000):
    return sum(changed(key) for key in range(draws)) / draws


def test_nothing_is_changed_by_default():
    assert torch.equal(varied(), PLANES)


def test_the_input_is_left_alone():
    before = PLANES.clone()
    varied(flip_prob=1, color_jitter=JITTER, color_jitter_prob=1, gray_scale_prob=1, erase_prob=1)
    assert torch.equal(PLANES, before)


def test_mirrored():
    assert torch.equal(varied(flip_prob=1), PLANES.flip(-1))


def test_gray_is_luminance_in_all_channels():
    gray = varied(gray_scale_prob=1)
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[0], gray[2])
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    assert (gray[0] - (PLANES * weights).sum(0)).abs().max() <= 1


def test_colours_change_in_place():
    jittered = [varied(key, color_jitter=JITTER, color_jitter_prob=1) for key in range(20)]
    assert len({tensor.numpy().tobytes() for tensor in jittered}) == 20
    assert all(tensor.shape == PLANES.shape for tensor in jittered)
    assert torch.equal(varied(color_jitter=(0, 0, 0, 0), color_jitter_prob=1), PLANES)


@pytest.mark.parametrize("index", range(4))
def test_each_strength_matters(index):
    strengths = [0.0] * 4
    strengths[index] = 0.4
    assert not torch.equal(varied(color_jitter=strengths, color_jitter_prob=1), PLANES)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["flip_prob", "gray_scale_prob", "erase_prob", "color_jitter_prob"])
def test_probabilities(name, probability):
    strengths = {"color_jitter": JITTER} if name == "color_jitter_prob" else {}
    augment = AugmentSection(**{name: probability, **strengths})
    small = torch.from_numpy(np.asarray(picture(8, 8)).transpose(2, 0, 1).copy())
    rate = share(lambda key: not torch.equal(vary(small, key, augment, OPENAI_PREPROCESS), small), 1000)
    assert abs(rate - probability) < 4 * (probability * (1 - probability) / 1000) ** 0.5 + 0.01


def test_the_key_alone_decides():
    everything = {"flip_prob": 0.5, "color_jitter": JITTER, "color_jitter_prob": 0.5, "erase_prob": 0.5}
    torch.manual_seed(0)
    first = [varied(key, **everything) for key in range(30)]
    torch.manual_seed(1)
    assert all(torch.equal(varied(key, **everything), before) for key, before in enumerate(first))


def test_turning_one_on_leaves_the_draws_of_the_others():
    """Whether and where an image is erased does not depend on its being mirrored."""
    for key in range(50):
        erased = varied(key, erase_prob=0.5) != PLANES
        both = varied(key, erase_prob=0.5, flip_prob=1.0) != PLANES.flip(-1)
        assert torch.equal(erased.any(0), both.any(0)) or (erased != both).float().mean() < 0.02


def test_the_crop_does_not_depend_on_the_rest():
    image = np.asarray(picture(60, 80))
    plain = train_transform(image, 24, 5)
    assert torch.equal(train_transform(image, 24, 5, AugmentSection(flip_prob=1)), plain.flip(-1))


@settings(max_examples=60)
@given(key=st.integers(0, 2**64 - 1), count=st.integers(1, 4))
def test_erased_parts_have_the_area_asked_for(key, count):
    white = torch.full((3, 40, 48), 200, dtype=torch.uint8)
    preprocess = Preprocess(mean=(0.2,) * 3, std=(0.05,) * 3)  # noise that never looks like the image
    erased = (vary(white, key, AugmentSection(erase_prob=1, erase_count=count), preprocess) != white).all(0)
    assert 0.01 <= erased.float().mean() <= 0.36
    rows, columns = erased.any(1).nonzero(), erased.any(0).nonzero()
    if count == 1:
        box = erased[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all()
        assert 0.25 <= box.shape[0] / box.shape[1] <= 4


def test_the_number_of_rectangles_varies():
    white = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    preprocess = Preprocess(mean=(0.2,) * 3, std=(0.05,) * 3)
    augment = AugmentSection(erase_prob=1, erase_count=3)
    areas = [(vary(white, key, augment, preprocess) != white).all(0).sum().item() for key in range(200)]
    assert len(set(areas)) > 60


def test_noise_is_standard_normal_after_normalisation_but_for_the_clipped_ends():
    preprocess = Preprocess(mean=(0.5, 0.45, 0.4), std=(0.12, 0.1, 0.08))
    white = torch.full((3, 120, 120), 255, dtype=torch.uint8)
    values = []
    for key in range(30):
        erased = vary(white, key, AugmentSection(erase_prob=1), preprocess)
        mask = (erased != white).all(0)
        values.append(normalize(erased[None], preprocess.mean, preprocess.std)[0][:, mask])
    noise = torch.cat(values, dim=1)
    assert noise.shape[1] > 20_000
    assert noise.mean(dim=1).abs().max() < 0.03
    assert (noise.std(dim=1) - 1).abs().max() < 0.03
    assert abs((noise.abs() < 1).float().mean() - 0.6827) < 0.01
    correlation = torch.corrcoef(noise)
    assert (correlation - torch.eye(3)).abs().max() < 0.03


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_images_are_not_erased_and_not_an_error(size):
    tiny = torch.full((3, size, size), 9, dtype=torch.uint8)
    for key in range(20):
        result = vary(tiny, key, AugmentSection(erase_prob=1, erase_count=2, flip_prob=0.5), OPENAI_PREPROCESS)
        assert result.shape == tiny.shape
