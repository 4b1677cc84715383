"""OpenCLIP's `image_transform` without OpenCLIP: shapes, errors, randomness. Equality is tested in tests/golden."""

import ast
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.pictures import MODES, picture
from clip_trainer.vision import (
    OPENAI_MEAN,
    OPENAI_PREPROCESS,
    OPENAI_STD,
    AugmentationCfg,
    Preprocess,
    PreprocessCfg,
    eval_transform,
    image_transform,
    image_transform_v2,
    merge_preprocess_dict,
    normalize,
    pipeline,
)
from clip_trainer.vision.augmentation import ColorJitter, RandomErasing, RandomGrayscale, RandomResizedCrop
from clip_trainer.vision.resizing import CenterCropOrPad, height_width
from clip_trainer.vision.tensors import MaybeConvertMode, MaybeToTensor, Normalize

CONVERTIBLE = [mode for mode in MODES if mode != "LAB"]


@settings(max_examples=80)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    mode=st.sampled_from(CONVERTIBLE),
    target=st.one_of(st.integers(1, 24), st.tuples(st.integers(1, 24), st.integers(1, 24))),
    train=st.booleans(),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
)
def test_any_picture_gives_a_normalised_tensor(height, width, mode, target, train, resize_mode):
    result = image_transform(target, train, resize_mode=resize_mode)(picture(height, width, mode))
    assert result.shape == (3, *height_width(target))
    assert result.dtype == torch.float32
    for channel in range(3):
        low, high = -OPENAI_MEAN[channel] / OPENAI_STD[channel], (1 - OPENAI_MEAN[channel]) / OPENAI_STD[channel]
        assert low - 1e-5 <= result[channel].min() <= result[channel].max() <= high + 1e-5


def test_the_trainers_evaluation_is_the_same():
    image = picture(70, 50)
    expected = image_transform(32, False)(image)
    pixels = eval_transform(np.asarray(image), 32)
    assert torch.equal(normalize(pixels[None], OPENAI_MEAN, OPENAI_STD)[0], expected)


def test_padding_has_the_fill_colour():
    result = image_transform((16, 32), False, mean=0.5, std=1.0, resize_mode="longest", fill_color=51)(picture(32, 32))
    assert torch.allclose(result[:, :, 0], torch.tensor(51 / 255 - 0.5))
    assert torch.allclose(result[:, :, -1], torch.tensor(51 / 255 - 0.5))
    assert CenterCropOrPad(4, fill=(1, 2, 3))(picture(2, 2)).getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ValueError, match="one value for each of 3"):
        CenterCropOrPad(4, fill=(1, 2))(picture(2, 2))


def test_seeds_decide_training_images():
    transform = image_transform(16, True, aug_cfg={"color_jitter": (0.4,) * 3 + (0.1,), "color_jitter_prob": 0.5})
    image = picture(40, 50)
    seen = []
    for _ in range(2):
        torch.manual_seed(1)
        random.seed(1)
        seen.append([transform(image) for _ in range(5)])
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))
    assert not torch.equal(seen[0][0], seen[0][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "nearest"}, "interpolation is"),
        ({"resize_mode": "crop"}, "resize_mode is one of"),
        ({"std": (1.0, 0.0, 1.0)}, "divide by zero"),
        ({"image_size": (1, 2, 3)}, "height and width"),
        ({"aug_cfg": {"color_jitter_prob": 0.5}}, "four strengths"),
        ({"aug_cfg": {"color_jitter_prob": 0.5, "color_jitter": (1, 1)}}, "four strengths"),
        ({"aug_cfg": {"color_jitter": (1, 1), "use_timm": True}}, "one, three or four"),
        ({"aug_cfg": {"gray_scale_prob": 1.5}}, "no probability"),
        ({"aug_cfg": {"re_prob": 2, "use_timm": True}}, "no probability"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        image_transform(**{"image_size": 16, "is_train": True, **options})


@pytest.mark.parametrize("unused", [{"ratio": (1, 2)}, {"re_prob": 0.5}, {"re_count": 2}, {"color_jitter": 0.4}])
def test_settings_without_effect_are_named(unused):
    with pytest.warns(UserWarning, match=next(iter(unused))):
        image_transform(16, True, aug_cfg=AugmentationCfg(**unused))


def test_settings_with_effect_do_not_warn():
    image_transform(16, True, aug_cfg={"color_jitter": (0.1,) * 4, "color_jitter_prob": 1.0, "gray_scale_prob": 0.2})
    image_transform(16, True, aug_cfg={"use_timm": True, "ratio": (1, 2), "re_prob": 0.1, "color_jitter": 0.4})


def test_erasing_fills_rectangles_with_normal_noise():
    torch.manual_seed(0)
    random.seed(0)
    erase = RandomErasing(1.0, count=2)
    erased = [erase(torch.full((3, 60, 60), 9.0)) for _ in range(60)]
    parts = torch.cat([tensor[tensor != 9.0] for tensor in erased])
    assert abs(parts.mean()) < 0.02
    assert abs(parts.std() - 1) < 0.02
    areas = torch.tensor([(tensor != 9.0).float().mean() for tensor in erased])
    assert areas.min() >= 0.015
    assert areas.max() <= 0.36
    assert torch.equal(RandomErasing(0.0)(torch.zeros(3, 9, 9)), torch.zeros(3, 9, 9))


def test_gray_and_jitter_happen_as_often_as_asked():
    random.seed(2)
    image = picture(4, 4)
    rate = sum(RandomGrayscale(0.3)(image) is not image for _ in range(2000)) / 2000
    assert abs(rate - 0.3) < 0.04
    assert ColorJitter(0, 0, 0, 0)(image) is image


def test_crops_fall_back_to_the_centre():
    crop = RandomResizedCrop(8, scale=(1.0, 1.0)).draw(1, 500)
    assert (crop.height, crop.width, crop.left) == (1, 1, 249)


def test_arrays_and_tensors_pass_the_last_steps():
    array = np.full((2, 3), 51, dtype=np.uint8)
    assert MaybeConvertMode()(array) is array
    assert torch.equal(MaybeToTensor()(array), torch.full((1, 2, 3), 0.2))
    tensor = torch.ones(3, 2, 2)
    assert MaybeToTensor()(tensor) is tensor
    assert torch.equal(Normalize((0.5,) * 3, (0.5,) * 3)(tensor), tensor)


def test_representations_name_the_steps():
    lines = repr(image_transform(16, False)).splitlines()
    assert [line.strip().split("(")[0] for line in lines[1:-1]] == [
        "Resize",
        "CenterCrop",
        "MaybeConvertMode",
        "MaybeToTensor",
        "Normalize",
    ]
    assert "RandomErasing(p=0.5" in repr(image_transform(16, True, aug_cfg={"use_timm": True, "re_prob": 0.5}))


def test_configurations():
    cfg = PreprocessCfg(size=(8, 16), resize_mode="squash")
    assert image_transform_v2(cfg, False)(picture(30, 30)).shape == (3, 8, 16)
    assert (cfg.num_channels, cfg.input_size) == (3, (3, 8, 16))
    with pytest.raises(ValueError, match="RGB"):
        PreprocessCfg(mode="L")
    assert merge_preprocess_dict(cfg, {"size": 4, "mean": None})["size"] == 4
    assert merge_preprocess_dict({"size": 5, "url": "x"}, {"hf_hub": "y"}) == {"size": 5}


def test_the_trainers_settings_as_openclip_writes_them():
    assert set(OPENAI_PREPROCESS.to_dict()) == {"mean", "std", "interpolation", "resize_mode"}
    changed = OPENAI_PREPROCESS.overlaid({"mean": [0.5, 0.5, 0.5], "size": 4, "std": None, "fill_color": 7})
    assert changed == Preprocess(mean=(0.5, 0.5, 0.5), fill_color=7)
    assert OPENAI_PREPROCESS.overlaid(changed.to_dict()) == changed


def test_neither_torchvision_nor_timm_is_imported():
    folder = Path(pipeline.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    tops = {name.split(".")[0] for name in names}
    assert "torch" in tops
    assert not tops & {"torchvision", "timm", "open_clip"}


def test_settings_do_not_import_torch():
    code = (
        "import sys; from clip_trainer.vision import PreprocessCfg, color, resizing; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
