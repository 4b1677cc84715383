"""The native text tower: which token is pooled, who sees whom, what can be left out."""

import pytest
import torch

from clip_trainer.model import ClipConfig, CustomTextCLIP, SpeedUps, create_model

END, PAD, EOS = 19, 0, 2


def model(speed_ups=None, custom=False, seed=0, **text):
    fields = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 8, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 8, "heads": 2, "layers": 3, **text},
        "custom_text": custom or bool(text.get("embed_cls")),
    }
    return create_model(ClipConfig.from_dict(fields, "test"), seed=seed, speed_ups=speed_ups).double()


def captions():
    return torch.tensor([[5, 7, EOS, END, PAD, PAD, PAD], [6, EOS, END, PAD, PAD, PAD, PAD]])


def changed(text, column, token=9):
    other = text.clone()
    other[:, column] = token
    return other


def moves(net, column, rows=slice(None)):
    """Whether the feature depends on the token in a column."""
    text = captions()
    difference = net.encode_text(text) - net.encode_text(changed(text, column))
    return bool(difference[rows].abs().max() > 1e-9)


@pytest.mark.parametrize(("pool", "column"), [("first", [0, 0]), ("last", [6, 6]), ("argmax", [3, 2]), ("eos", [2, 1])])
@pytest.mark.parametrize("custom", [False, True])
def test_the_pooled_token(pool, column, custom):
    net = model(pool_type=pool, custom=custom)
    tower = net.text if custom else net
    assert isinstance(net, CustomTextCLIP) == custom
    states = tower.embed_text_and_tokens(captions())[1]
    expected = states[torch.arange(2), torch.tensor(column)] @ tower.text_projection
    torch.testing.assert_close(net.encode_text(captions()), expected)


def test_without_an_end_token_the_first_is_pooled():
    net, text = model(pool_type="eos"), captions()
    text[text == EOS] = 4
    states = net.embed_text_and_tokens(text)[1]
    torch.testing.assert_close(net.encode_text(text), states[:, 0] @ net.text_projection)


def test_all_tokens_may_be_the_feature():
    net = model(pool_type="none")
    assert net.encode_text(captions()).shape == (2, 7, 8)
    assert not net.pooled_text_block


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_type": "first"},
        {"pool_type": "last"},
        {"pool_type": "eos"},
        {"no_causal_mask": True},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        {"embed_cls": True},
        {"embed_cls": True, "no_causal_mask": True, "qk_norm": True},
        {"scaled_cosine_attn": True, "scale_heads": True, "scale_attn_inner": True, "scale_fc": True},
    ],
)
@pytest.mark.parametrize("length", [None, 4, 5])
def test_shortcuts_are_exact(options, length):
    fast, slow = model(**options), model(SpeedUps(pooled_last_block=False), **options)
    texts = {"fast": fast.encode_text(captions(), text_length=length), "slow": slow.encode_text(captions())}
    torch.testing.assert_close(texts["fast"], texts["slow"], rtol=1e-11, atol=1e-13)
    for out in texts.values():
        out.square().sum().backward()
    expected = dict(slow.named_parameters())
    for name, parameter in fast.named_parameters():
        if not name.startswith("visual") and expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parametrize(
    ("options", "truncates"),
    [
        ({}, True),
        ({"pool_type": "eos"}, True),
        ({"pool_type": "first"}, True),
        ({"pool_type": "last"}, False),
        ({"pool_type": "none"}, False),
        ({"no_causal_mask": True}, False),
        ({"output_tokens": True}, False),
        ({"embed_cls": True}, False),
    ],
)
def test_columns_are_left_out_only_where_nothing_sees_them(options, truncates):
    net = model(custom=True, **options)
    assert net.text.truncates is truncates


def test_a_causal_tower_does_not_see_what_follows():
    net = model()
    assert moves(net, 0)
    assert not moves(net, 5)
    assert not moves(net, 3, rows=1)


def test_without_the_mask_every_token_is_seen():
    net = model(no_causal_mask=True)
    assert all(moves(net, column) for column in (0, 4, 5, 6))


def test_a_class_token_sees_the_text_and_no_padding():
    """Its mask is one column late, as in the weights that were published."""
    net = model(embed_cls=True)
    assert net.text.positional_embedding.shape == (8, 8)
    out = net.text.embed_text_and_tokens(captions())
    assert [part.shape for part in out] == [(2, 8), (2, 7, 8)]
    visible = net.text._visible(captions())
    assert visible.shape == (2, 1, 8, 8)
    assert visible[0, 0, -1].tolist() == [True] * 5 + [False] * 3
    assert visible[1, 0, -1].tolist() == [True] * 4 + [False] * 4
    assert visible[0, 0, 2].tolist() == [True] * 3 + [False] * 5
    free = model(embed_cls=True, no_causal_mask=True).text._visible(captions())
    assert free[0, 0, 0].tolist() == [True] * 5 + [False] * 3
    other_pad = model(embed_cls=True, pad_id=7).text._visible(captions())
    assert other_pad[0, 0, -1].tolist() == [True, True, False, True, True, True, True, True]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, {"text_projection"}),
        ({"proj_bias": True}, {"text_projection.weight", "text_projection.bias"}),
        ({"proj_type": "none"}, set()),
    ],
)
def test_projections(options, keys):
    net = model(**options)
    assert {key for key in net.state_dict() if key.startswith("text_projection")} == keys
    assert net.encode_text(captions()).shape == (2, 8)


def test_tokens_come_with_the_feature_when_asked_for():
    net = model(custom=True, output_tokens=True)
    feature, tokens = net.text(captions())
    torch.testing.assert_close(feature, model(custom=True).text(captions()), rtol=1e-11, atol=1e-13)
    assert tokens.shape == (2, 7, 8)


def test_intermediates_are_the_tokens_after_each_block():
    net = model()
    out = net.forward_intermediates(text=captions(), text_indices=[0, -1], normalize=False)
    assert len(out["text_intermediates"]) == 2
    assert out["text_intermediates"][0].shape == (2, 7, 8)
    torch.testing.assert_close(out["text_features"], net.encode_text(captions()))
    normed = net.forward_intermediates(text=captions(), normalize_intermediates=True)["text_intermediates"]
    torch.testing.assert_close(normed[-1], net.embed_text_and_tokens(captions())[1])
    suffix = model(embed_cls=True).forward_intermediates(text=captions(), text_output_extra_tokens=True)
    assert suffix["text_intermediates_suffix"][0].shape == (2, 1, 8)
    assert suffix["text_intermediates"][0].shape == (2, 7, 8)


def test_early_stop_computes_no_later_block():
    net = model(custom=True)
    calls = []
    for index, block in enumerate(net.text.transformer.resblocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    net.forward_intermediates(text=captions(), text_indices=[1], stop_early=True, intermediates_only=True)
    assert calls == [0, 1]


@pytest.mark.parametrize("custom", [False, True])
def test_the_text_tower_can_be_locked(custom):
    net = model(custom=custom)
    prefix = "text." if custom else ""
    net.lock_text_tower(2, freeze_layer_norm=False)
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert f"{prefix}text_projection" in trainable
    assert f"{prefix}transformer.resblocks.2.mlp.c_fc.weight" in trainable
    assert f"{prefix}transformer.resblocks.0.mlp.c_fc.weight" not in trainable
    assert f"{prefix}transformer.resblocks.0.ln_1.weight" in trainable
    assert f"{prefix}token_embedding.weight" not in trainable
    assert "visual.proj" in trainable
    assert "logit_scale" in trainable


@pytest.mark.parametrize("custom", [False, True])
def test_what_is_never_decayed(custom):
    prefix = "text." if custom else ""
    expected = {"visual.positional_embedding", "visual.class_embedding", f"{prefix}positional_embedding"}
    assert model(custom=custom).no_weight_decay() == expected
    assert "text.cls_emb" in model(embed_cls=True).no_weight_decay()


@pytest.mark.parametrize("custom", [False, True])
def test_recomputing_changes_no_gradient(custom):
    gradients = []
    for checkpointing in (False, True):
        net = model(SpeedUps(pooled_last_block=False), custom=custom)
        net.set_grad_checkpointing(checkpointing)
        net.encode_text(captions()).square().sum().backward()
        gradients.append(net.get_parameter(f"{'text.' * custom}token_embedding.weight").grad)
    assert torch.equal(*gradients)
