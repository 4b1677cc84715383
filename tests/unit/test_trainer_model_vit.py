"""The image tower: patch dropout, pooling, positions, intermediates."""

import numpy as np
import pytest
import torch

from clip_trainer.model import ClipConfig, create_model
from clip_trainer.model.patch_dropout import PatchDropout
from clip_trainer.model.positions import sin_cos_2d


def model(text=None, other=None, **vision):
    fields = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 16, "layers": 3, "head_width": 8, **vision},
        "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1, **(text or {})},
        **(other or {}),
    }
    return create_model(ClipConfig.from_dict(fields, "test")).double()


def images(rows=3, size=(16, 16)):
    return torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_patch_dropout_keeps_the_class_token_and_whole_patches():
    drop = PatchDropout(0.6)
    x = torch.arange(2 * 11, dtype=torch.float64).reshape(2, 11, 1).expand(-1, -1, 3)
    kept = drop(x)
    assert kept.shape == (2, 1 + 4, 3)
    assert torch.equal(kept[:, 0], x[:, 0])
    for before, after in zip(x, kept, strict=True):
        chosen = after[1:, 0].tolist()
        assert len(set(chosen)) == 4
        assert set(chosen) <= set(before[1:, 0].tolist())
    assert (kept[..., 0] == kept[..., 2]).all()


def test_with_keys_each_image_decides_for_itself():
    dropout = PatchDropout(0.5)
    x = torch.arange(5 * 17.0).reshape(5, 17, 1)
    keys = np.array([7, 8, 9, 7, 10], dtype=np.uint64)
    with dropout.keyed(keys):
        kept = dropout(x) - x[:, :1]
    assert torch.equal(kept[0], kept[3])  # the same key
    assert not torch.equal(kept[0].sort(dim=0).values, kept[1].sort(dim=0).values)
    with dropout.keyed(keys[2:]):
        assert torch.equal(dropout(x[2:]) - x[2:, :1], kept[2:])  # whatever else is in the batch
    torch.manual_seed(0)
    first = dropout(x)
    torch.manual_seed(1)
    assert not torch.equal(dropout(x), first)  # without keys torch's generator decides again


def test_keyed_patches_are_dropped_evenly():
    dropout = PatchDropout(0.5)
    with dropout.keyed(np.arange(4000, dtype=np.uint64)):
        kept = dropout(torch.arange(17.0).reshape(1, 17, 1).expand(4000, 17, 1))[:, 1:].flatten().long()
    counts = torch.bincount(kept, minlength=17)[1:]
    assert (counts.double() - 2000).abs().max() < 5 * (4000 * 0.25) ** 0.5


def test_patch_dropout_never_leaves_an_image_without_patches():
    assert PatchDropout(0.99)(torch.zeros(1, 5, 2)).shape == (1, 2, 2)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_nothing_is_dropped_in_evaluation_or_at_rate_zero(rate):
    drop = PatchDropout(rate)
    drop.train(rate == 0)
    x = torch.randn(2, 9, 4)
    state = torch.get_rng_state()
    assert drop(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_rates_that_leave_nothing_are_refused(rate):
    with pytest.raises(ValueError, match="patch dropout rate"):
        PatchDropout(rate)
    net = model(patch_dropout=0.5)
    with pytest.raises(ValueError, match="patch dropout rate"):
        net.set_patch_dropout(rate)
    assert net.visual.patch_dropout.rate == 0.5


def test_the_seed_decides_which_patches_are_left_out():
    net, image = model(patch_dropout=0.5), images()
    torch.manual_seed(1)
    first = net.encode_image(image)
    torch.manual_seed(1)
    assert torch.equal(net.encode_image(image), first)
    assert not torch.allclose(net.encode_image(image), first)


def test_the_rate_may_change_while_training():
    net, image = model(), images()
    full = net.encode_image(image)
    net.set_patch_dropout(0.75)
    assert net.visual.embed(image).shape == (3, 1 + 4, 16)
    net.set_patch_dropout(0.0)
    torch.testing.assert_close(net.encode_image(image), full)


def test_recomputed_blocks_see_the_same_patches():
    gradients = []
    for checkpointing in (False, True):
        net = model(patch_dropout=0.5)
        net.set_grad_checkpointing(checkpointing)
        torch.manual_seed(3)
        net.encode_image(images()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in net.visual.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-14, msg=name)


def test_a_tower_without_patches_has_no_patch_dropout():
    net = model(layers=[1, 1, 1, 1], patch_size=None, image_size=32, width=8)
    with pytest.raises(ValueError, match="no patch dropout"):
        net.set_patch_dropout(0.5)


@pytest.mark.parametrize(
    ("options", "feature", "tokens"),
    [
        ({}, (3, 16), (3, 16, 16)),
        ({"pool_type": "avg"}, (3, 16), (3, 16, 16)),
        ({"pool_type": "none"}, (3, 17, 16), (3, 17, 16)),
        ({"attentional_pool": True, "attn_pooler_queries": 6}, (3, 16), (3, 5, 16)),
        ({"attentional_pool": True, "attn_pooler_queries": 6, "pool_type": "none"}, (3, 6, 16), (3, 6, 16)),
        ({"attentional_pool": "parallel", "attn_pooler_queries": 6}, (3, 1, 16), (3, 6, 16)),
        ({"attentional_pool": "cascade", "attn_pooler_queries": 6}, (3, 1, 16), (3, 6, 16)),
    ],
)
def test_what_pooling_gives(options, feature, tokens):
    assert model(**options).visual(images()).shape == feature
    with_tokens = model(output_tokens=True, **options).visual(images())
    assert [part.shape for part in with_tokens] == [feature, tokens]
    torch.testing.assert_close(with_tokens[0], model(**options).visual(images()), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("options", [{"pool_type": "avg"}, {"attentional_pool": True}, {"output_tokens": True}])
def test_the_pooled_last_block_is_left_out_where_more_than_the_class_token_counts(options):
    assert model().visual.pooled_last_block
    assert not model(**options).visual.pooled_last_block


def test_the_mean_is_that_of_the_normed_patches():
    net = model(pool_type="avg")
    tokens = net.visual.ln_post(net.visual.transformer(net.visual.embed(images())))
    torch.testing.assert_close(net.visual(images()), tokens[:, 1:].mean(dim=1) @ net.visual.proj)
    after = model(pool_type="avg", final_ln_after_pool=True)
    raw = after.visual.transformer(after.visual.embed(images()))[:, 1:].mean(dim=1)
    torch.testing.assert_close(after.visual(images()), after.visual.ln_post(raw) @ after.visual.proj)


def test_rectangles_of_the_wrong_way_round_are_refused():
    net = model(image_size=[8, 16])
    assert net.encode_image(images(2, (8, 16))).shape == (2, 16)
    with pytest.raises(ValueError, match="images are 16x8, the model takes 8x16"):
        net.encode_image(images(2, (16, 8)))


def test_fixed_positions_are_sines_and_cosines_of_column_and_row():
    table = sin_cos_2d(8, rows=2, columns=3)
    assert table.shape == (7, 8)
    assert not table[0].any()
    column, row = 2, 1
    expected = [
        [torch.sin(torch.tensor(p * w)), torch.cos(torch.tensor(p * w))] for p in (column, row) for w in (1.0, 0.01)
    ]
    (s0, c0), (s1, c1), (s2, c2), (s3, c3) = expected
    torch.testing.assert_close(table[1 + row * 3 + column], torch.stack([s0, s1, c0, c1, s2, s3, c2, c3]))


def test_fixed_positions_are_not_trained():
    net = model(pos_embed_type="sin_cos_2d")
    torch.testing.assert_close(net.visual.positional_embedding.float(), sin_cos_2d(16, 4, 4))
    assert not net.visual.positional_embedding.requires_grad
    net.lock_image_tower(99)
    assert not net.visual.positional_embedding.requires_grad
    assert net.visual.conv1.weight.requires_grad


def test_intermediates_are_the_tokens_after_each_block():
    net = model().visual
    out = net.forward_intermediates(images(), output_fmt="NLC", output_extra_tokens=True)
    x = net.embed(images())
    for index, block in enumerate(net.transformer.resblocks):
        x = block(x)
        torch.testing.assert_close(out["image_intermediates"][index], x[:, 1:])
        torch.testing.assert_close(out["image_intermediates_prefix"][index], x[:, :1])
    torch.testing.assert_close(out["image_features"], net(images()))
    maps = net.forward_intermediates(images(), indices=[-1], intermediates_only=True)
    assert set(maps) == {"image_intermediates"}
    assert maps["image_intermediates"][0].shape == (3, 16, 4, 4)
    torch.testing.assert_close(maps["image_intermediates"][0].flatten(2).transpose(1, 2), x[:, 1:])


@pytest.mark.parametrize("indices", [4, [3], [-4]])
def test_blocks_that_do_not_exist_have_no_intermediates(indices):
    with pytest.raises(ValueError, match="out of range"):
        model().visual.forward_intermediates(images(), indices=indices)


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="NHWC"):
        model().visual.forward_intermediates(images(), output_fmt="NHWC")
    with pytest.raises(ValueError, match="NCHW"):
        model(other={"custom_text": True}).forward_intermediates(
            text=torch.zeros(1, 6, dtype=torch.int64), text_output_fmt="NCHW"
        )


def test_groups_cover_the_tower_but_for_poolers():
    for options in ({}, {"attentional_pool": True}):
        net = model(**options).visual
        grouped = [id(parameter) for group in net.layer_groups() for parameter in group.parameters()]
        assert len(grouped) == len(set(grouped))
        left = {name.split(".")[0] for name, p in net.named_parameters() if id(p) not in set(grouped)}
        assert left == ({"attn_pool"} if options else set())
    assert [group.name for group in net.layer_groups()] == ["embeddings", "layer.0", "layer.1", "layer.2", "proj"]


@pytest.mark.parametrize(("unlocked", "trainable"), [(0, set()), (1, {"proj"}), (2, {"proj", "ln_post", "block 2"})])
def test_the_image_tower_can_be_locked(unlocked, trainable):
    net = model()
    net.lock_image_tower(unlocked)
    names = {
        f"block {name.split('.')[2]}" if name.startswith("transformer") else name.split(".")[0]
        for name, parameter in net.visual.named_parameters()
        if parameter.requires_grad
    }
    assert names == trainable
    assert all(p.requires_grad for n, p in net.named_parameters() if not n.startswith("visual."))
