"""Model configurations as data."""

import json
import math
import subprocess
import sys

import pytest

from clip_trainer.model import (
    ClipConfig,
    TextConfig,
    VisionConfig,
    add_model_config,
    config_catalogue,
    get_config,
    model_names,
    raw_config,
    read_config,
)
from clipctl import models
from clipctl.contract.errors import MissingError, SpecError

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


def config(vision=None, text=None, **other):
    fields = {"embed_dim": 8, "vision_cfg": {**TINY["vision_cfg"], **(vision or {})}}
    return ClipConfig.from_dict({**fields, "text_cfg": {**TINY["text_cfg"], **(text or {})}, **other}, "x")


@pytest.mark.parametrize(
    ("made", "kind", "vision", "text"),
    [
        (config(), "clip", "vit", "native"),
        (config(custom_text=True), "custom_text", "vit", "native"),
        (config(text={"hf_model_name": "roberta-base"}), "custom_text", "vit", "hf"),
        (config({"timm_model_name": "convnext_tiny"}), "clip", "timm", "native"),
        (config({"layers": [1, 2, 3, 4], "patch_size": None}), "clip", "resnet", "native"),
        (config(custom_text=True, multimodal_cfg={"width": 8}), "coca", "vit", "native"),
        (config(text={"hf_model_name": "x"}, multimodal_cfg={}), "coca", "vit", "hf"),
    ],
)
def test_the_kind_of_a_model_and_its_towers(made, kind, vision, text):
    assert (made.kind, made.vision.kind, made.text.kind) == (kind, vision, text)
    again = ClipConfig.from_dict(json.loads(json.dumps(made.to_dict())), "again")
    assert again == made


@pytest.mark.parametrize(
    ("vision", "text", "other", "message"),
    [
        ({}, {}, {"multimodal_cfg": {}}, "multimodal_cfg needs custom_text"),
        ({}, {"embed_cls": True}, {}, "embed_cls needs custom_text"),
        ({"attentional_pool": "cascade", "width": 16}, {}, {}, "attentional_pool cascade needs a vision width equal"),
        ({"attentional_pool": "both"}, {}, {}, "attentional_pool"),
        ({"pos_embed_type": "sin_cos_2d", "width": 6, "head_width": 3}, {}, {}, "divisible by 4, not 6"),
        ({"layers": [1, 2, 3]}, {}, {}, "layers"),
        ({"image_size": [16, 0]}, {}, {}, "image_size"),
        ({"patch_dropout": 1.0}, {}, {}, "patch_dropout"),
        ({"norm_kwargs": {"epsilon": 1e-6}}, {}, {}, "norm_kwargs.epsilon"),
        ({"act_kwargs": {"approximate": "sin"}}, {}, {}, "act_kwargs.approximate"),
        ({}, {"pool_type": "max"}, {}, "pool_type"),
        ({}, {"proj_type": "mlp"}, {}, "proj_type"),
        ({}, {"vocab": 3}, {}, "text_cfg.vocab"),
        ({}, {}, {"custom": True}, "custom"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(vision, text, other, message):
    with pytest.raises(SpecError, match=message):
        config(vision, text, **other)


def test_sizes_may_be_rectangles():
    made = config({"image_size": [24, 32], "patch_size": [8, 16]})
    assert made.vision.image_hw == (24, 32)
    assert made.vision.patch_hw == (8, 16)
    assert made.vision.grid_size == (3, 2)
    assert made.vision.patches == 6
    assert made.to_dict()["vision_cfg"]["image_size"] == [24, 32]
    square = config({"image_size": 20})
    assert (square.vision.image_hw, square.vision.grid_size) == ((20, 20), (2, 2))


def test_a_resnet_has_the_heads_of_its_attention_pool():
    assert get_config("RN50").vision.heads == 32
    assert get_config("ViT-H-14").vision.heads == 16


@pytest.mark.parametrize(
    ("options", "custom"),
    [
        ({}, False),
        ({"block_type": "custom"}, True),
        ({"scale_fc": True}, True),
        ({"qk_norm": True}, True),
        ({"block_type": "default", "scale_fc": True}, False),
        ({"ls_init_value": 0.1}, False),
    ],
)
def test_switches_make_a_block_custom(options, custom):
    assert config(options).vision.custom_block is custom


def test_the_stored_form_is_the_callers_own():
    raw_config("ViT-B-32")["embed_dim"] = 1
    assert raw_config("ViT-B-32")["embed_dim"] == 512
    assert raw_config("ViT-B/32") == raw_config("ViT-B-32")


@pytest.fixture
def no_additions(monkeypatch):
    monkeypatch.setattr(config_catalogue, "_added", {})


def test_added_configurations_are_named_after_their_files(tmp_path, no_additions):
    (tmp_path / "mine.json").write_text(json.dumps(TINY))
    (tmp_path / "ViT-B-32.json").write_text(json.dumps({**TINY, "embed_dim": 9}))
    (tmp_path / "notes.json").write_text('{"about": "something else"}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "readme.txt").write_text("no")
    before = set(model_names())
    add_model_config(tmp_path)
    assert set(model_names()) - before == {"mine"}
    assert get_config("mine").text.context_length == 8
    assert get_config("ViT-B-32").embed_dim == 9


def test_one_file_can_be_added_and_read_again(tmp_path, no_additions):
    file = tmp_path / "one.json"
    file.write_text(json.dumps(TINY))
    add_model_config(str(file))
    assert get_config("one").embed_dim == 8
    file.write_text(json.dumps({**TINY, "embed_dim": 10}))
    add_model_config(file)
    assert get_config("one").embed_dim == 10


def test_what_cannot_be_added_is_refused(tmp_path, no_additions):
    with pytest.raises(MissingError, match=r"no model configuration at .*absent"):
        add_model_config(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(SpecError, match=r"broken\.json is not a JSON file"):
        add_model_config(tmp_path)
    (tmp_path / "broken.json").write_text(json.dumps({**TINY, "embed_dim": "8"}))
    add_model_config(tmp_path)
    with pytest.raises(SpecError, match="broken is wrong: embed_dim"):
        get_config("broken")


def test_a_file_is_read_in_both_layouts(tmp_path):
    alone, exported = tmp_path / "a.json", tmp_path / "open_clip_config.json"
    alone.write_text(json.dumps(TINY))
    exported.write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {"mean": [0, 0, 0]}}))
    assert read_config(alone) == read_config(exported) == ClipConfig.from_dict(TINY, "tiny")
    with pytest.raises(MissingError):
        read_config(tmp_path / "none.json")


def test_the_command_line_knows_the_same_names(no_additions):
    assert models.model_names() == model_names()
