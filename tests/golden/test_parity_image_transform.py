"""`image_transform` equals OpenCLIP's bit by bit: evaluation in all modes, training draw by draw."""

import contextlib
import random
import warnings
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.pictures import MODES, SIZES, picture, rotated_by_exif
from clip_trainer.vision import (
    AugmentationCfg,
    PreprocessCfg,
    image_transform,
    image_transform_v2,
    merge_preprocess_dict,
    merge_preprocess_kwargs,
)

pytestmark = pytest.mark.parity
TARGETS = (32, (24, 40), (40, 24))
RESIZES = ("shortest", "longest", "squash")
COMPARED = Counter()


@pytest.fixture(scope="module")
def oracle(open_clip):
    from open_clip import transform

    yield transform
    print(
        "\nimages compared bit by bit with OpenCLIP:", *(f"{name} {count}" for name, count in sorted(COMPARED.items()))
    )


def outcome(transform, image):
    """The result, or the kind of error it ends with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return transform(image)
        except Exception as error:
            return type(error)


def compare(ours, theirs, image, kind):
    expected, actual = outcome(theirs, image), outcome(ours, image)
    if isinstance(expected, type):
        # Theirs fails where a side rounds to nothing, ours leaves one pixel; or Pillow cannot convert the mode.
        assert actual is expected or isinstance(actual, torch.Tensor)
        COMPARED[f"{kind} (theirs fails)"] += 1
        return
    assert isinstance(actual, torch.Tensor), actual
    assert actual.dtype == expected.dtype == torch.float32
    assert actual.is_contiguous()
    assert torch.equal(actual, expected)
    COMPARED[kind] += 1


@pytest.mark.parametrize("resize_mode", RESIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_evaluation_of_all_sizes_and_modes(oracle, resize_mode, interpolation):
    for target in TARGETS:
        options = {"resize_mode": resize_mode, "interpolation": interpolation, "fill_color": 77}
        ours, theirs = (make(target, False, **options) for make in (image_transform, oracle.image_transform))
        for size in SIZES:
            compare(ours, theirs, picture(*size), "evaluation")
        for mode in MODES:
            for size in ((50, 37), (37, 90), (32, 32)):
                compare(ours, theirs, picture(*size, mode), f"evaluation {mode}")


@settings(max_examples=150)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    mode=st.sampled_from(MODES),
    target=st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    resize_mode=st.sampled_from(RESIZES),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.integers(0, 255),
)
def test_any_evaluation(oracle, height, width, mode, target, resize_mode, interpolation, fill):
    options = {"resize_mode": resize_mode, "interpolation": interpolation, "fill_color": fill}
    ours, theirs = (make(target, False, **options) for make in (image_transform, oracle.image_transform))
    compare(ours, theirs, picture(height, width, mode), "evaluation, fuzzed")


def test_exif_orientation_is_ignored_as_theirs(oracle):
    ours, theirs = image_transform(32, False), oracle.image_transform(32, False)
    compare(ours, theirs, rotated_by_exif(50, 70), "evaluation EXIF")


@pytest.mark.parametrize(("mean", "std"), [(None, None), (0.5, 0.25), ((0.1, 0.2, 0.3), [0.4, 0.5, 0.6])])
def test_normalisation(oracle, mean, std):
    ours, theirs = (make(16, False, mean=mean, std=std) for make in (image_transform, oracle.image_transform))
    compare(ours, theirs, picture(20, 30), "evaluation mean and std")


AUGMENTATIONS = {
    "default": None,
    "scale": {"scale": (0.1, 0.7)},
    "jitter": {"color_jitter": (0.32, 0.32, 0.32, 0.08), "color_jitter_prob": 0.8},
    "strong jitter": {"color_jitter": (0.9, 0.9, 0.9, 0.5), "color_jitter_prob": 1.0},
    "gray": {"gray_scale_prob": 0.4},
    "all": {
        "scale": (0.4, 1.0),
        "color_jitter": (0.32, 0.0, 0.32, 0.08),
        "color_jitter_prob": 0.5,
        "gray_scale_prob": 0.2,
    },
    "timm": {"use_timm": True},
    "timm ratio": {"use_timm": True, "scale": (0.2, 0.9), "ratio": (0.5, 2.0)},
    "timm erase": {"use_timm": True, "re_prob": 0.6},
    "timm erase many": {"use_timm": True, "re_prob": 0.9, "re_count": 3},
    "timm jitter": {"use_timm": True, "color_jitter": 0.4},
    "timm jitter 4": {"use_timm": True, "color_jitter": (0.3, 0.2, 0.1, 0.05), "re_prob": 0.3},
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_two_hundred_training_images(oracle, name):
    """Same seeds, one after the other: so all draws before an image were the same too."""
    settings_ = AUGMENTATIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs warns of settings that it does use
        ours, theirs = (make(24, True, aug_cfg=settings_) for make in (image_transform, oracle.image_transform))
    sizes = [(40, 50), (50, 40), (24, 24), (70, 30), (3, 90)]
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    results = []
    for transform in (ours, theirs):
        torch.manual_seed(7)
        random.seed(7)
        results.append([transform(images[number % len(images)]) for number in range(200)])
        results.append([torch.rand(1), random.random()])  # the generators stand at the same place
    for actual, expected in zip(results[0], results[2], strict=True):
        assert torch.equal(actual, expected)
    assert results[1] == results[3]
    COMPARED[f"training {name}"] += 200


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("settings_", [None, {"use_timm": True}])
@pytest.mark.parametrize("target", [(20, 30), 24])
def test_training_sizes_and_filters(oracle, interpolation, settings_, target):
    results = []
    for make in (image_transform, oracle.image_transform):
        torch.manual_seed(3)
        random.seed(3)
        transform = make(target, True, interpolation=interpolation, aug_cfg=settings_)
        results.append(torch.stack([transform(picture(40, 50, seed=number)) for number in range(8)]))
    assert torch.equal(*results)
    COMPARED["training sizes and filters"] += 8


@pytest.mark.parametrize("mode", MODES)
def test_training_modes(oracle, mode):
    ours, theirs = image_transform(24, True), oracle.image_transform(24, True)
    for image in (picture(40, 50, mode), picture(24, 24, mode)):
        results = []
        for transform in (ours, theirs):
            torch.manual_seed(5)
            results.append(outcome(transform, image))
        if isinstance(results[1], torch.Tensor):
            assert torch.equal(*results)
            COMPARED[f"training {mode}"] += 1


def test_unused_settings_warn_in_both(oracle):
    for make in (image_transform, oracle.image_transform):
        with pytest.warns(UserWarning, match="specify `use_timm`"):
            make(24, True, aug_cfg={"ratio": (0.5, 2.0)})


def test_version_two_takes_a_configuration(oracle):
    fields = {
        "size": (20, 30),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.5, 0.5),
        "resize_mode": "longest",
        "fill_color": 9,
    }
    ours = image_transform_v2(PreprocessCfg(**fields), False)
    theirs = oracle.image_transform_v2(oracle.PreprocessCfg(**fields), False)
    compare(ours, theirs, picture(50, 40), "evaluation from PreprocessCfg")


def test_configurations_have_the_same_fields_and_merge_alike(oracle):
    assert asdict(PreprocessCfg()) == asdict(oracle.PreprocessCfg())
    assert asdict(AugmentationCfg()) == asdict(oracle.AugmentationCfg())
    assert PreprocessCfg(size=3).input_size == oracle.PreprocessCfg(size=3).input_size
    assert PreprocessCfg(size=(3, 4)).input_size == oracle.PreprocessCfg(size=(3, 4)).input_size
    for overlay in ({}, None, {"mean": None, "size": 9, "url": "x"}, {"interpolation": "bilinear"}):
        for base, their_base in ((PreprocessCfg(), oracle.PreprocessCfg()), ({"size": 5, "odd": 1},) * 2):
            assert merge_preprocess_dict(base, overlay) == oracle.merge_preprocess_dict(their_base, overlay)
    merged = merge_preprocess_kwargs(PreprocessCfg(), size=8, nothing=1)
    assert merged == oracle.merge_preprocess_kwargs(oracle.PreprocessCfg(), size=8, nothing=1)


def test_steps_look_like_theirs(oracle):
    """Programs look into `transforms`: for the size, the mean and the std."""
    for options in ({"is_train": True}, {"is_train": False}, {"is_train": False, "resize_mode": "longest"}):
        ours, theirs = image_transform(32, **options), oracle.image_transform(32, **options)
        names = [[type(step).__name__ for step in transform.transforms] for transform in (ours, theirs)]
        assert names[0] == names[1]
        assert ours.transforms[0].size == theirs.transforms[0].size
        assert tuple(ours.transforms[-1].mean) == tuple(theirs.transforms[-1].mean)
        assert tuple(ours.transforms[-1].std) == tuple(theirs.transforms[-1].std)


def test_wrong_arguments_fail_in_both(oracle):
    for options in ({"interpolation": "nearest"}, {"resize_mode": "crop"}, {"aug_cfg": {"blur": 1}}):
        for make in (image_transform, oracle.image_transform):
            with pytest.raises((ValueError, AssertionError, TypeError)), contextlib.suppress(DeprecationWarning):
                make(24, True, **options)
