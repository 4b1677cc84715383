"""Crops and sizes, and the random stream they come from."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.vision.geometry import (
    Crop,
    KeyedStream,
    central_part,
    centred,
    kept_ratio_size,
    random_crop,
    shortest_side_size,
)

SIDES = st.integers(1, 3000)
SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)


def test_the_stream_is_splitmix64():
    """First outputs of the reference implementation for seed 1234567."""
    stream = KeyedStream(1234567)
    assert [stream.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(-(2**70), 2**70))
def test_keys_count_modulo_2_to_the_64(key):
    assert KeyedStream(key).bits() == KeyedStream(key % 2**64).bits()


@given(st.integers(0, 2**64 - 1), st.integers(1, 10**6))
def test_numbers_stay_in_range(key, count):
    stream = KeyedStream(key)
    assert 0 <= stream.below(count) < count
    assert -2.0 <= stream.uniform(-2.0, 3.0) < 3.0


def test_numbers_are_spread_evenly():
    stream = KeyedStream(7)
    draws = [stream.below(10) for _ in range(20_000)]
    expected = len(draws) / 10
    chi_squared = sum((draws.count(value) - expected) ** 2 / expected for value in range(10))
    assert chi_squared < 27.9  # 99.9 % quantile for 9 degrees of freedom
    mean = sum(stream.uniform(0.0, 1.0) for _ in range(20_000)) / 20_000
    assert mean == pytest.approx(0.5, abs=0.01)


@given(height=SIDES, width=SIDES, key=st.integers(0, 2**64 - 1))
def test_a_random_crop_lies_inside_the_image(height, width, key):
    crop = random_crop(height, width, KeyedStream(key), SCALE, RATIO)
    assert crop.height >= 1
    assert crop.width >= 1
    assert 0 <= crop.top <= height - crop.height
    assert 0 <= crop.left <= width - crop.width


@given(height=st.integers(200, 900), width=st.integers(200, 900), key=st.integers(0, 2**32))
def test_area_and_aspect_stay_within_their_bounds(height, width, key):
    crop = random_crop(height, width, KeyedStream(key), (0.3, 0.6), RATIO)
    if height / 2 < width < height * 2:  # otherwise the fallback may answer
        assert 0.29 <= crop.height * crop.width / (height * width) <= 0.61
    assert 0.74 <= crop.width / crop.height <= 1.35


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1000, 1, Crop(499, 0, 1, 1)), (1, 1000, Crop(0, 499, 1, 1)), (400, 100, Crop(133, 0, 133, 100))],
)
def test_long_images_fall_back_to_the_centre(height, width, expected):
    assert random_crop(height, width, KeyedStream(0), SCALE, RATIO) == expected


def test_different_keys_give_different_crops():
    crops = {random_crop(300, 400, KeyedStream(key), (0.5, 1.0), RATIO) for key in range(100)}
    assert len(crops) > 90


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (224, 298)), ((640, 480), (298, 224)), ((224, 224), (224, 224)), ((1, 9), (224, 2016))],
)
def test_the_shorter_side_becomes_the_size(size, expected):
    assert shortest_side_size(*size, 224) == expected


@given(height=st.integers(224, 3000), width=st.integers(224, 3000))
def test_the_central_square_is_central(height, width):
    square = centred(height, width, 224, 224)
    assert abs((square.top + 112) - height / 2) <= 0.5
    assert abs((square.left + 112) - width / 2) <= 0.5


@pytest.mark.parametrize(
    ("size", "target", "longest", "expected"),
    [
        ((480, 640), (224, 224), 1, (168, 224)),
        ((480, 640), (224, 224), 0, (224, 299)),
        ((480, 640), (100, 300), 0, (225, 300)),
        ((480, 640), (100, 300), 1, (100, 133)),
        ((1, 1000), (32, 32), 1, (1, 32)),
    ],
)
def test_scaling_by_one_factor(size, target, longest, expected):
    assert kept_ratio_size(*size, target, longest) == expected


@given(height=SIDES, width=SIDES)
def test_usual_images_are_kept_whole(height, width):
    part = central_part(height, width)
    if max(height, width) <= 512 * min(height, width):
        assert part == Crop(0, 0, height, width)
    assert max(part.height, part.width) <= 512 * min(part.height, part.width)


@given(length=st.integers(1, 10**6), short=st.integers(1, 3))
def test_strips_are_cut_around_their_exact_centre(length, short):
    part = central_part(short, length)
    assert part.left * 2 + part.width == length
    assert part.height == short
    assert part.width >= math.floor(min(length, 512 * short)) - 1
