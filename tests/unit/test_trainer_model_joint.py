"""What models return to a loss: tuples and dicts, with and without bias, for one input or two."""

import math

import pytest
import torch

from clip_trainer.model import BiasedClipOutput, ClipConfig, ClipOutput, CustomTextCLIP, create_model


def model(**other):
    fields = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 8, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 2, "layers": 2},
        **other,
    }
    return create_model(ClipConfig.from_dict(fields, "test")).double()


def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def captions():
    return torch.tensor([[3, 19, 0, 0, 0, 0], [4, 5, 19, 0, 0, 0], [6, 7, 8, 19, 0, 0]])


BIAS = {"init_logit_bias": -10.0}


@pytest.mark.parametrize("custom", [False, True])
def test_without_a_bias_there_are_three_results(custom):
    net = model(custom_text=custom)
    out = net(images(), captions())
    assert isinstance(out, ClipOutput)
    assert len(out) == 3
    assert out.logit_bias is None
    assert isinstance(net, CustomTextCLIP) == custom
    assert net.logit_bias is None
    assert "logit_bias" not in net.state_dict()


@pytest.mark.parametrize("custom", [False, True])
def test_with_a_bias_there_are_four(custom):
    net = model(custom_text=custom, init_logit_scale=math.log(10), **BIAS)
    out = net(images(), captions())
    assert isinstance(out, BiasedClipOutput)
    assert len(out) == 4
    assert out.logit_bias is net.logit_bias
    assert out.logit_bias.item() == -10
    assert out.logit_scale.item() == pytest.approx(10)


def test_dicts_have_the_same_names():
    net = model(**BIAS)
    expected = net(images(), captions())._asdict()
    net.output_dict = True
    out = net(images(), captions())
    assert type(out) is dict
    assert list(out) == ["image_features", "text_features", "logit_scale", "logit_bias"]
    assert all(torch.equal(out[name], expected[name]) for name in out)
    plain = model()
    plain.output_dict = True
    assert "logit_bias" not in plain(images(), captions())


def test_a_missing_input_gives_none():
    net = model()
    assert net(images()).text_features is None
    assert net(text=captions()).image_features is None
    torch.testing.assert_close(net(images()).image_features, net(images(), captions()).image_features)


@pytest.mark.parametrize("bias", [{}, BIAS])
def test_logits_are_scaled_similarities_plus_bias(bias):
    net = model(**bias)
    out = net(images(), captions())
    expected = out.image_features @ out.text_features.T / 0.07 + bias.get("init_logit_bias", 0.0)
    image_logits, text_logits = net.get_logits(images(), captions())
    torch.testing.assert_close(image_logits, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(text_logits, image_logits.T)


def test_the_scale_may_have_a_dimension():
    net = model(nonscalar_logit_scale=True, **BIAS)
    assert net.logit_scale.shape == net.logit_bias.shape == (1,)
    assert net(images(), captions()).logit_scale.shape == (1,)


def test_intermediates_come_with_features_logits_and_scale_when_asked_for():
    net = model(**BIAS)
    out = net.forward_intermediates(images(), captions(), output_logits=True, output_logit_scale_bias=True)
    expected = net(images(), captions())
    torch.testing.assert_close(out["image_features"], expected.image_features)
    torch.testing.assert_close(out["text_features"], expected.text_features)
    torch.testing.assert_close(out["image_logits"], net.get_logits(images(), captions())[0])
    assert torch.equal(out["text_logits"], out["image_logits"].T)
    assert torch.equal(out["logit_scale"], expected.logit_scale)
    assert out["logit_bias"] is net.logit_bias
    only = net.forward_intermediates(images(), captions(), intermediates_only=True, output_logits=True)
    assert set(only) == {"image_intermediates", "text_intermediates"}
    raw = net.forward_intermediates(images(), normalize=False)
    torch.testing.assert_close(raw["image_features"], net.encode_image(images()))


def test_logits_of_one_input_are_refused():
    for inputs in ({"image": images()}, {"text": captions()}):
        with pytest.raises(ValueError, match="both images and text"):
            model().forward_intermediates(**inputs, output_logits=True)


@pytest.mark.parametrize("custom", [False, True])
def test_checkpointing_reaches_both_towers(custom):
    net = model(custom_text=custom)
    net.set_grad_checkpointing()
    text = net.text if custom else net
    assert net.visual.transformer.grad_checkpointing
    assert text.transformer.grad_checkpointing
    net.set_grad_checkpointing(False)
    assert not text.transformer.grad_checkpointing


def test_both_layouts_compute_the_same():
    plain, custom = model(), model(custom_text=True)
    state = plain.state_dict()
    text = ("positional_embedding", "text_projection", "token_embedding", "transformer", "ln_final")
    custom.load_state_dict({f"text.{key}" if key.startswith(text) else key: state[key] for key in state})
    for a, b in zip(plain(images(), captions()), custom(images(), captions()), strict=True):
        torch.testing.assert_close(a, b)


def test_models_know_their_configuration():
    for custom in (False, True):
        net = model(custom_text=custom)
        assert net.config.custom_text is custom
        assert net.context_length == 6
        assert net.vocab_size == 20
        assert net.visual.image_size == (8, 8)


def test_on_meta_nothing_is_allocated():
    config = ClipConfig.from_dict(
        {
            "embed_dim": 16,
            "vision_cfg": {
                "attentional_pool": "cascade",
                "width": 16,
                "head_width": 8,
                "ls_init_value": 0.1,
                "qk_norm": True,
                "pos_embed_type": "sin_cos_2d",
            },
            "text_cfg": {"embed_cls": True, "scaled_cosine_attn": True, "proj_bias": True},
            "custom_text": True,
            "init_logit_bias": 0.0,
        },
        "meta",
    )
    net = create_model(config, device="meta")
    assert all(tensor.is_meta for tensor in net.state_dict().values())
