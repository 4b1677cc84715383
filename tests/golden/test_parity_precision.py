"""Every precision mode stores what OpenCLIP stores, in every kind of model; and initial weights spread as its do."""

from collections import Counter

import pytest
import torch

from clip_testkit.model_parity import oracle_for, sample_batch
from clip_trainer.model import ClipConfig, SpeedUps, create_model, get_config, get_precision
from clip_trainer.model.skip_fills import SkipFills

pytestmark = pytest.mark.parity

NAMES = ("fp32", "amp", "amp_bf16", "amp_bfloat16", "bf16", "fp16", "pure_bf16", "pure_fp16")
LOW = ("bf16", "fp16", "pure_bf16", "pure_fp16")
MODELS = ("ViT-B-32", "ViT-M-16-alt", "RN50", "coca_ViT-B-32")
WITH_LIBRARIES = ("ViT-B-16-SigLIP", "vit_medium_patch16_gap_256", "roberta-ViT-B-32")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def types(model):
    return {key: tensor.dtype for key, tensor in model.state_dict().items()}


def oracle_types(config, precision, monkeypatch):
    """As the oracle's `create_model` does it, but on the meta device for all models."""
    from open_clip import hf_model
    from open_clip.factory import _set_model_device_and_precision
    from open_clip.model import get_cast_dtype

    from clip_trainer.model.hf_architecture import hf_config

    monkeypatch.setattr(hf_model.AutoConfig, "from_pretrained", hf_config)
    with torch.device("meta"), SkipFills():
        model = oracle_for(config, cast_dtype=get_cast_dtype(precision))
    _set_model_device_and_precision(model, "meta", precision, config.vision.kind == "timm")
    return types(model)


@pytest.mark.parametrize("precision", NAMES)
def test_vit_b_32_is_split_as_the_oracles(open_clip, precision, monkeypatch):
    config = get_config("ViT-B-32")
    ours = types(create_model(config, precision, device="meta"))
    assert ours == oracle_types(config, precision, monkeypatch)
    if precision in ("bf16", "fp16"):
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        assert Counter(ours.values()) == {low: 195, torch.float32: 107}


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("name", MODELS)
def test_native_models_are_split_as_the_oracles(open_clip, name, precision, monkeypatch):
    config = get_config(name)
    assert types(create_model(config, precision, device="meta")) == oracle_types(config, precision, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("name", WITH_LIBRARIES)
def test_models_made_with_libraries_are_split_as_the_oracles(open_clip, name, precision, monkeypatch):
    config = get_config(name)
    assert types(create_model(config, precision, device="meta")) == oracle_types(config, precision, monkeypatch)


INITIAL = {
    "plain": ({}, {}, {}),
    "custom_blocks": (
        {"qk_norm": True, "scale_heads": True, "scale_fc": True, "ls_init_value": 0.3},
        {"scaled_cosine_attn": True, "scale_attn": True, "scale_attn_inner": True},
        {},
    ),
    "poolers": (
        {"attentional_pool": True, "attn_pooler_queries": 64, "no_ln_pre": True},
        {"embed_cls": True, "proj_bias": True},
        {"custom_text": True, "init_logit_bias": -10.0, "init_logit_scale": 2.5},
    ),
    "parallel": ({"attentional_pool": "parallel", "pos_embed_type": "sin_cos_2d"}, {"proj_type": "none"}, {}),
    "resnet": ({"layers": [1, 1, 1, 1], "width": 32, "patch_size": None, "image_size": 64}, {}, {}),
}


@pytest.mark.parametrize("name", INITIAL)
def test_initial_weights_spread_as_the_oracles(open_clip, name):
    vision, text, other = INITIAL[name]
    sizes = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 2, "head_width": 32}
    fields = {
        "embed_dim": 128,
        "vision_cfg": {**sizes, **vision},
        "text_cfg": {"context_length": 16, "vocab_size": 400, "width": 128, "heads": 4, "layers": 2, **text},
        **other,
    }
    config = ClipConfig.from_dict(fields, name)
    torch.manual_seed(0)
    theirs = oracle_for(config)
    ours = create_model(config).state_dict()
    assert {n: p.requires_grad for n, p in create_model(config, device="meta").named_parameters()} == {
        n: p.requires_grad for n, p in theirs.named_parameters()
    }
    for key, expected in theirs.state_dict().items():
        actual, expected = ours[key].double(), expected.double()
        if expected.numel() < 2 or float(expected.std()) == 0 or "sin_cos" in key:
            torch.testing.assert_close(actual, expected, msg=key)
            continue
        # Five standard errors of the difference of two estimates; bounded below for the large tensors.
        tolerance = max(5 / expected.numel() ** 0.5, 0.02)
        assert float(actual.std()) == pytest.approx(float(expected.std()), rel=tolerance), key
        assert abs(float(actual.mean() - expected.mean())) < 7 * float(expected.std()) / expected.numel() ** 0.5, key
        # The largest value tells a uniform distribution from a normal one.
        largest = float(actual.abs().max() / expected.abs().max())
        assert 0.6 < largest < 1.6, key


def test_fixed_positions_are_the_oracles(open_clip):
    fields = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 40, "patch_size": 8, "width": 24, "head_width": 8, "layers": 1},
        "text_cfg": {"width": 8, "heads": 2, "layers": 1, "vocab_size": 64},
    }
    fields["vision_cfg"]["pos_embed_type"] = "sin_cos_2d"
    config = ClipConfig.from_dict(fields, "fixed")
    ours, theirs = create_model(config).visual.positional_embedding, oracle_for(config).visual.positional_embedding
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    assert not ours.requires_grad


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("precision", NAMES)
def test_low_precision_outputs_are_as_near_the_oracles_as_rounding_allows(open_clip, precision, custom_text):
    from open_clip.factory import _set_model_device_and_precision
    from open_clip.model import get_cast_dtype

    fields = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 90, "width": 32, "heads": 4, "layers": 2},
        "custom_text": custom_text,
    }
    config, mode = ClipConfig.from_dict(fields, "small"), get_precision(precision)
    ours = create_model(config, precision, seed=3, speed_ups=SpeedUps(pooled_last_block=False))
    theirs = oracle_for(config, cast_dtype=get_cast_dtype(precision))
    _set_model_device_and_precision(theirs, "cpu", precision)
    theirs.load_state_dict(ours.state_dict())
    image, text = sample_batch(config, mode.image_dtype)
    with torch.no_grad(), mode.autocast("cpu"):
        expected, actual = theirs(image, text), ours(image, text)
    tolerance = {torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 2e-2}
    for got, wanted in zip(actual, expected, strict=True):
        assert got.dtype == wanted.dtype
    low = mode.autocast_dtype or mode.weight_dtype
    for got, wanted in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(got.float(), wanted.float(), rtol=0, atol=tolerance[low])
