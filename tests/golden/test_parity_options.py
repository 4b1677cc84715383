"""Every option of the native towers computes what OpenCLIP computes: outputs, gradients, intermediates."""

import pytest
import torch

from clip_testkit.model_parity import largest_difference, oracle_for, paired_models, sample_batch
from clip_trainer.model import ClipConfig, SpeedUps, create_model

pytestmark = pytest.mark.parity

VISION = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8, "mlp_ratio": 2.0}
TEXT = {"context_length": 12, "vocab_size": 90, "width": 24, "heads": 4, "layers": 2}
CUSTOM = {"custom_text": True}
ALL_SWITCHES = {
    "qk_norm": True,
    "scale_heads": True,
    "scale_attn_inner": True,
    "scale_attn": True,
    "scale_fc": True,
    "ls_init_value": 0.3,
    "norm_kwargs": {"eps": 1e-3},
    "act_kwargs": {"approximate": "tanh"},
}

# name: (vision_cfg, text_cfg, other fields)
OPTIONS = {
    "plain": ({}, {}, {}),
    "quick_gelu": ({}, {}, {"quick_gelu": True}),
    "custom_text": ({}, {}, CUSTOM),
    "logit_bias": ({}, {}, {"init_logit_bias": -10.0, "init_logit_scale": 2.3}),
    "logit_bias_custom": ({}, {}, {"init_logit_bias": -10.0, **CUSTOM}),
    "nonscalar_scale": ({}, {}, {"nonscalar_logit_scale": True, "init_logit_bias": -1.0}),
    "layer_scale": ({"ls_init_value": 0.1}, {"ls_init_value": 0.2}, {}),
    "tanh_gelu": ({"act_kwargs": {"approximate": "tanh"}}, {"act_kwargs": {"approximate": "tanh"}}, {}),
    "norm_eps": ({"norm_kwargs": {"eps": 1e-2}}, {"norm_kwargs": {"eps": 1e-2}}, {}),
    "norm_without_bias": ({"norm_kwargs": {"bias": False}}, {}, {}),
    "norm_without_weight": ({"norm_kwargs": {"elementwise_affine": False}}, {}, {}),
    "rectangle": ({"image_size": [16, 40]}, {}, {}),
    "rectangular_patches": ({"image_size": [16, 24], "patch_size": [4, 8]}, {}, {}),
    "left_over_pixels": ({"image_size": 29}, {}, {}),
    "head_width_above_width": ({"width": 32, "head_width": 20}, {}, {}),
    "no_ln_pre": ({"no_ln_pre": True}, {}, {}),
    "sin_cos_2d": ({"pos_embed_type": "sin_cos_2d"}, {}, {}),
    "pool_avg": ({"pool_type": "avg"}, {}, {}),
    "pool_avg_ln_after": ({"pool_type": "avg", "final_ln_after_pool": True}, {}, {}),
    "pool_tok_ln_after": ({"final_ln_after_pool": True}, {}, {}),
    "pool_none": ({"pool_type": "none"}, {}, {}),
    "attentional_pool": ({"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 3}, {}, {}),
    "attentional_pool_same_width": (
        {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4},
        {},
        {"embed_dim": 32},
    ),
    "attentional_pool_avg": (
        {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "pool_type": "avg"},
        {},
        {},
    ),
    "parallel_pool": ({"attentional_pool": "parallel", "attn_pooler_queries": 5}, {}, {"embed_dim": 32}),
    "cascade_pool": ({"attentional_pool": "cascade", "attn_pooler_queries": 5}, {}, {"embed_dim": 32}),
    "patch_dropout_off": ({"patch_dropout": 0.0}, {}, {}),
    "custom_block": ({"block_type": "custom"}, {"block_type": "custom"}, {}),
    "default_block_ignores_switches": ({"block_type": "default", "qk_norm": True}, {"block_type": "default"}, {}),
    "qk_norm": ({"qk_norm": True}, {"qk_norm": True}, {}),
    "scale_heads": ({"scale_heads": True}, {"scale_heads": True}, {}),
    "scale_attn_inner": ({"scale_attn_inner": True}, {"scale_attn_inner": True}, {}),
    "scale_attn": ({"scale_attn": True}, {"scale_attn": True}, {}),
    "scale_fc": ({"scale_fc": True}, {"scale_fc": True}, {}),
    "all_switches": (ALL_SWITCHES, ALL_SWITCHES, CUSTOM),
    "scaled_cosine": ({"scaled_cosine_attn": True}, {"scaled_cosine_attn": True}, {}),
    "scaled_cosine_custom": ({"scaled_cosine_attn": True, "scale_heads": True}, {"scaled_cosine_attn": True}, CUSTOM),
    "text_no_causal_mask": ({}, {"no_causal_mask": True}, {}),
    "text_no_causal_mask_custom": ({}, {"no_causal_mask": True, "qk_norm": True}, CUSTOM),
    "text_pool_first": ({}, {"pool_type": "first", "no_causal_mask": True}, {}),
    "text_pool_last": ({}, {"pool_type": "last"}, {}),
    "text_pool_eos": ({}, {"pool_type": "eos", "eos_id": 2}, {}),
    "text_pool_none": ({}, {"pool_type": "none"}, {}),
    "text_pool_last_siglip": (
        {},
        {"pool_type": "last", "no_causal_mask": True, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
        {"init_logit_bias": -10.0, **CUSTOM},
    ),
    "text_proj_bias": ({}, {"proj_bias": True}, {}),
    "text_proj_none": ({}, {"proj_type": "none"}, {"embed_dim": 24}),
    "text_cls": ({}, {"embed_cls": True}, CUSTOM),
    "text_cls_no_causal": ({}, {"embed_cls": True, "no_causal_mask": True}, CUSTOM),
    "text_cls_pad": ({}, {"embed_cls": True, "pad_id": 1}, CUSTOM),
    "text_cls_custom_block": ({}, {"embed_cls": True, "qk_norm": True}, CUSTOM),
}
NO_PAIRS = {"pool_none", "text_pool_none", "parallel_pool", "cascade_pool"}  # features are [n, tokens, embed_dim]
IN_FLOAT32 = ("plain", "all_switches", "attentional_pool", "text_pool_last_siglip", "text_cls", "scaled_cosine")


def config_of(name):
    vision, text, other = OPTIONS[name]
    fields = {"embed_dim": 12, "vision_cfg": {**VISION, **vision}, "text_cfg": {**TEXT, **text}, **other}
    return ClipConfig.from_dict(fields, name)


@pytest.fixture
def oracle(open_clip, monkeypatch):
    # Its scaled cosine attention multiplies four-dimensional tensors with bmm, which fails.
    monkeypatch.setattr(torch, "bmm", torch.matmul)
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [(name, torch.float64, 1e-10) for name in OPTIONS] + [(name, torch.float32, 1e-5) for name in IN_FLOAT32],
)
def test_outputs_are_the_oracles(oracle, name, dtype, tolerance):
    config = config_of(name)
    ours, theirs = paired_models(config, dtype)
    image, text = sample_batch(config, dtype)
    for normalize in (False, True):
        expected = theirs.encode_image(image, normalize=normalize), theirs.encode_text(text, normalize=normalize)
        actual = ours.encode_image(image, normalize=normalize), ours.encode_text(text, normalize=normalize)
        assert largest_difference(actual, expected) < tolerance
        length = config.text.context_length // 2
        assert largest_difference(ours.encode_text(text, normalize, text_length=length), expected[1]) < tolerance
    assert largest_difference(tuple(ours(image, text)), theirs(image, text)) < tolerance
    assert largest_difference(tuple(ours(image)), theirs(image)) < tolerance
    assert largest_difference(tuple(ours(text=text)), theirs(text=text)) < tolerance
    ours.output_dict = theirs.output_dict = True
    assert largest_difference(ours(image, text), theirs(image, text)) < tolerance
    if name not in NO_PAIRS:
        # The scale multiplies rounding errors.
        scale = float(ours.logit_scale.detach().exp())
        assert largest_difference(ours.get_logits(image, text), theirs.get_logits(image, text)) < scale * tolerance


@pytest.mark.parametrize(
    ("name", "pooled_last_block"),
    [(name, True) for name in OPTIONS if name not in NO_PAIRS] + [("all_switches", False), ("text_cls", False)],
)
def test_gradients_are_the_oracles(oracle, open_clip, name, pooled_last_block):
    config = config_of(name)
    ours, theirs = paired_models(config, torch.float64, SpeedUps(pooled_last_block=pooled_last_block))
    image, text = sample_batch(config, torch.float64)
    loss = open_clip.ClipLoss()
    loss(*theirs(image, text)[:3]).backward()
    loss(*tuple(ours(image, text, 8))[:3]).backward()
    wanted = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        assert parameter.requires_grad == wanted[key].requires_grad, key
        if wanted[key].grad is None:
            assert parameter.grad is None, key
        else:
            torch.testing.assert_close(parameter.grad, wanted[key].grad, rtol=1e-8, atol=1e-12, msg=key)


INTERMEDIATES = (
    {},
    {"image_indices": 2, "text_indices": [0, -1], "normalize_intermediates": True},
    {"intermediates_only": True, "stop_early": True, "image_indices": [0], "text_indices": [0]},
    {"stop_early": True, "image_indices": [1], "text_indices": 1, "normalize": False},
    {"image_output_fmt": "NLC", "image_output_extra_tokens": True, "text_output_extra_tokens": True},
    {"output_logits": True, "output_logit_scale_bias": True},
)


@pytest.mark.parametrize(
    "name", ["plain", "custom_text", "logit_bias", "rectangle", "text_cls", "all_switches", "pool_avg_ln_after"]
)
@pytest.mark.parametrize("options", INTERMEDIATES)
def test_intermediates_are_the_oracles(oracle, name, options):
    config = config_of(name)
    ours, theirs = paired_models(config, torch.float64)
    image, text = sample_batch(config, torch.float64)
    expected = theirs.forward_intermediates(image, text, **options)
    assert largest_difference(ours.forward_intermediates(image, text, **options), expected) < 1e-10
    if "output_logits" not in options:
        for inputs in ({"image": image}, {"text": text}):
            expected = theirs.forward_intermediates(**inputs, **options)
            assert largest_difference(ours.forward_intermediates(**inputs, **options), expected) < 1e-10


@pytest.mark.parametrize("name", ["plain", "attentional_pool", "pool_avg"])
def test_patch_dropout_draws_the_oracles_patches(oracle, name):
    vision, _, other = OPTIONS[name]
    fields = {"embed_dim": 12, "vision_cfg": {**VISION, **vision, "patch_dropout": 0.6}, "text_cfg": TEXT, **other}
    config = ClipConfig.from_dict(fields, name)
    ours, theirs = paired_models(config, torch.float64)
    image, _ = sample_batch(config, torch.float64)
    torch.manual_seed(7)
    expected = theirs.encode_image(image)
    torch.manual_seed(7)
    assert largest_difference(ours.encode_image(image), expected) < 1e-10
    for model in (ours, theirs):
        model.eval()
    assert largest_difference(ours.encode_image(image), theirs.encode_image(image)) < 1e-10


@pytest.mark.parametrize("name", ["plain", "attentional_pool", "text_cls", "text_proj_bias", "text_proj_none"])
@pytest.mark.parametrize("unlocked", [0, 1, 2, 3, 9])
def test_locks_freeze_what_the_oracle_freezes(oracle, name, unlocked):
    config = config_of(name)
    for method in ("lock_image_tower", "lock_text_tower"):
        ours, theirs = create_model(config), oracle_for(config)
        getattr(ours, method)(unlocked)
        getattr(theirs, method)(unlocked)
        assert {n: p.requires_grad for n, p in ours.named_parameters()} == {
            n: p.requires_grad for n, p in theirs.named_parameters()
        }


@pytest.mark.parametrize("name", ["plain", "custom_text", "text_cls"])
def test_checkpointing_and_decay_are_the_oracles(oracle, name):
    config = config_of(name)
    ours, theirs = paired_models(config, torch.float64)
    assert ours.no_weight_decay() == theirs.no_weight_decay()
    image, text = sample_batch(config, torch.float64)
    plain = torch.autograd.grad(ours(image, text).image_features.sum(), ours.visual.conv1.weight)
    ours.set_grad_checkpointing()
    again = torch.autograd.grad(ours(image, text).image_features.sum(), ours.visual.conv1.weight)
    assert torch.equal(plain[0], again[0])
