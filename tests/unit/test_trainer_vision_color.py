"""Colour changes of Pillow images."""

import numpy as np
import pytest
from PIL import Image

from clip_testkit.pictures import picture
from clip_trainer.vision.color import (
    ADJUSTMENTS,
    JitterRanges,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    to_gray,
)

IMAGE = picture(20, 30)


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("adjust", [adjust_brightness, adjust_contrast, adjust_saturation])
def test_a_factor_of_one_changes_nothing(adjust):
    assert np.array_equal(pixels(adjust(IMAGE, 1.0)), pixels(IMAGE))


def test_a_turn_of_nothing_only_rounds():
    assert np.abs(pixels(adjust_hue(IMAGE, 0.0)) - pixels(IMAGE)).max() <= 6


def test_factors_of_zero():
    assert not pixels(adjust_brightness(IMAGE, 0)).any()
    assert len(np.unique(pixels(adjust_contrast(IMAGE, 0)))) == 1
    assert np.array_equal(pixels(adjust_saturation(IMAGE, 0)), pixels(to_gray(IMAGE)))


def test_a_third_of_the_hue_circle_turns_red_to_green():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert np.abs(pixels(adjust_hue(red, 1 / 3))[0, 0] - [0, 255, 0]).max() <= 3
    assert np.abs(pixels(adjust_hue(red, -1 / 3))[0, 0] - [0, 0, 255]).max() <= 6


@pytest.mark.parametrize("mode", ["L", "1", "I", "F"])
def test_gray_images_have_no_hue(mode):
    image = picture(5, 5, mode)
    assert adjust_hue(image, 0.3) is image


@pytest.mark.parametrize("turn", [-0.51, 0.6])
def test_more_than_half_a_turn_is_refused(turn):
    with pytest.raises(ValueError, match=r"-0\.5 to 0\.5"):
        adjust_hue(IMAGE, turn)


def test_ranges_of_strengths():
    ranges = JitterRanges.of((0.4, 1.5, 0, 0.1)).ranges
    assert ranges == ((0.6, 1.4), (0.0, 2.5), None, (-0.1, 0.1))
    assert JitterRanges.of((0.5,)).ranges == ((0.5, 1.5), None, None, None)
    assert JitterRanges.of(()).ranges == (None,) * len(ADJUSTMENTS)
    assert JitterRanges.of(((0.2, 0.3), 0, 0, (-0.1, 0.2))).ranges == ((0.2, 0.3), None, None, (-0.1, 0.2))


@pytest.mark.parametrize("strengths", [(-0.1,), (0, 0, 0, 0.6), ((1.2, 0.8),), (0,) * 5, ((-1, 1),)])
def test_wrong_strengths_are_refused(strengths):
    with pytest.raises(ValueError):
        JitterRanges.of(strengths)
