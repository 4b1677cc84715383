"""Model configurations as data."""

import math
import subprocess
import sys

import pytest

from clip_trainer.model import ClipConfig, TextConfig, VisionConfig, get_config, model_names
from clipctl.contract.errors import SpecError

TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 8, "layers": 1, "head_width": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 8, "heads": 2, "layers": 1},
}


def test_the_built_in_names():
    assert {"ViT-B-32", "ViT-small-8-64", "ViT-tiny-4-32", "ViT-tiny-8-32"} <= set(model_names())
    assert list(model_names()) == sorted(model_names())


@pytest.mark.parametrize("name", model_names())
def test_every_built_in_configuration_reads_and_fits_its_name(name):
    config = get_config(name)
    assert ClipConfig.from_dict(config.to_dict(), name) == config


def test_vit_b_32_is_the_papers():
    config = get_config("ViT-B-32")
    assert config.embed_dim == 512
    assert (config.vision.image_size, config.vision.patch_size, config.vision.width) == (224, 32, 768)
    assert (config.vision.layers, config.vision.heads, config.vision.patches) == (12, 12, 49)
    assert (config.text.context_length, config.text.vocab_size, config.text.width) == (77, 49408, 512)
    assert config.init_logit_scale == pytest.approx(math.log(1 / 0.07))


def test_the_slash_spelling_is_the_same_model():
    assert get_config("ViT-B/32") == get_config("ViT-B-32")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(SpecError, match="'ViT-B-23'") as caught:
        get_config("ViT-B-23")
    assert "Did you mean ViT-B-32?" in caught.value.hint
    assert "ViT-tiny-4-32" in caught.value.hint


def test_a_name_like_no_other_suggests_nothing():
    with pytest.raises(SpecError) as caught:
        get_config("???")
    assert "Did you mean" not in caught.value.hint


def test_wrong_fields_are_all_named():
    bad = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layres": 1, "width": "8"}}
    with pytest.raises(SpecError) as caught:
        ClipConfig.from_dict(bad, "mine.json")
    assert "mine.json" in caught.value.problem
    assert "vision_cfg.layres" in caught.value.problem
    assert "vision_cfg.width" in caught.value.problem


@pytest.mark.parametrize("data", [None, [], {}, {"embed_dim": 8}])
def test_incomplete_configurations_are_refused(data):
    with pytest.raises(SpecError, match="is wrong"):
        ClipConfig.from_dict(data, "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionConfig(image_size=6, patch_size=8), "patch_size 8 is larger than image_size 6"),
        (lambda: VisionConfig(patch_size=None), "patch_size is missing"),
        (lambda: VisionConfig(qk_norm=True, scaled_cosine_attn=True), "exclude each other"),
        (lambda: VisionConfig(width=200, head_width=64), "head_width 64 does not divide"),
        (lambda: TextConfig(width=100, heads=8), "heads 8 does not divide"),
        (lambda: TextConfig(context_length=2), "greater than 2"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_optional_fields_are_written_only_when_set():
    plain = ClipConfig.from_dict(TINY, "tiny")
    assert set(plain.to_dict()) == {"embed_dim", "vision_cfg", "text_cfg"}
    quick = ClipConfig.from_dict({**TINY, "quick_gelu": True, "init_logit_scale": 1.5}, "tiny")
    assert quick.to_dict()["quick_gelu"] is True
    assert quick.to_dict()["init_logit_scale"] == 1.5


def test_reading_configurations_does_not_import_torch():
    code = "import sys, clip_trainer.model as m; m.get_config('ViT-B-32'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
