"""The modified ResNet."""

import pytest
import torch
from torch import nn

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model, get_config
from clip_trainer.model.modified_resnet import Bottleneck, ModifiedResNet


@pytest.fixture
def tower():
    return create_model(ClipConfig.from_dict(tinymodels.resnet(), "tiny")).visual


@pytest.fixture
def image():
    return tinymodels.images(64, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "blocks", "heads", "positions"),
    [
        ("RN50", (3, 4, 6, 3), 32, 50),
        ("RN101", (3, 4, 23, 3), 32, 50),
        ("RN50x4", (4, 6, 10, 6), 40, 82),
        ("RN50x16", (6, 8, 18, 8), 48, 145),
        ("RN50x64", (3, 15, 36, 10), 64, 197),
    ],
)
def test_published_shapes(name, blocks, heads, positions):
    tower = create_model(name, device="meta").visual
    assert isinstance(tower, ModifiedResNet)
    assert tuple(len(getattr(tower, f"layer{stage}")) for stage in (1, 2, 3, 4)) == blocks
    assert tower.attnpool.num_heads == heads
    assert len(tower.attnpool.positional_embedding) == positions
    assert tower.attnpool.c_proj.out_features == get_config(name).embed_dim


def test_rn50_has_the_published_number_of_parameters():
    model = create_model("RN50", device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 102_007_137
    assert len(model.state_dict()) == 489


def test_embeds_images(tower, image):
    assert tower(image).shape == (3, 12)
    assert tower.eval()(image).shape == (3, 12)


def test_no_convolution_after_the_first_strides(tower):
    strides = {name: module.stride for name, module in tower.named_modules() if isinstance(module, nn.Conv2d)}
    assert strides.pop("conv1") == (2, 2)
    assert set(strides.values()) == {(1, 1)}
    pools = [name for name, module in tower.named_modules() if isinstance(module, nn.AvgPool2d)]
    assert {"avgpool", "layer2.0.avgpool", "layer3.0.avgpool", "layer4.0.avgpool"} <= set(pools)
    assert "layer1.0.avgpool" not in pools


def test_a_stride_pools_every_pixel():
    block = Bottleneck(4, 2, stride=2).eval()
    image = torch.rand(1, 4, 8, 8, requires_grad=True)
    block(image).sum().backward()
    assert (image.grad.abs().sum(dim=1) > 0).all()


def test_fresh_blocks_are_their_shortcuts(tower):
    block = tower.layer1[1].eval()
    x = torch.rand(2, 32, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_the_feature_is_the_last_of_the_intermediates(tower, image):
    tower.eval()
    out = tower.forward_intermediates(image)
    assert [tuple(item.shape[1:]) for item in out["image_intermediates"]] == [
        (8, 16, 16),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]
    torch.testing.assert_close(out["image_features"], tower(image))
    torch.testing.assert_close(tower.attnpool(out["image_intermediates"][-1]), out["image_features"])


def test_features_are_right_whatever_intermediates_are_wanted(tower, image):
    # OpenCLIP's tower fails here: it leaves out the stages after the last wanted one.
    out = tower.eval().forward_intermediates(image, indices=[1])
    torch.testing.assert_close(out["image_features"], tower(image))
    assert len(out["image_intermediates"]) == 1


def test_stops_early(tower, image, monkeypatch):
    def fail(x):
        raise AssertionError("computed")

    monkeypatch.setattr(tower.layer3[0], "forward", fail)
    options = {"indices": [-4], "intermediates_only": True}
    assert tower.forward_intermediates(image, stop_early=True, **options)["image_intermediates"][0].shape[1] == 32
    with pytest.raises(AssertionError, match="computed"):
        tower.forward_intermediates(image, **options)


def test_refuses_what_it_cannot_do(tower, image):
    with pytest.raises(ValueError, match=r"images are 32x32, the model takes 64x64"):
        tower(image[..., :32, :32])
    with pytest.raises(ValueError, match="NCHW only"):
        tower.forward_intermediates(image, output_fmt="NLC")
    with pytest.raises(ValueError, match="out of range"):
        tower.forward_intermediates(image, indices=[5])
    with pytest.raises(ValueError, match="out of range"):
        tower.forward_intermediates(image, indices=6)


def test_images_need_not_be_square():
    config = ClipConfig.from_dict(tinymodels.resnet(image_size=[64, 96]), "tiny")
    tower = create_model(config).visual
    assert len(tower.attnpool.positional_embedding) == 2 * 3 + 1
    assert tower(torch.zeros(2, 3, 64, 96)).shape == (2, 12)


def test_the_pool_attends_from_the_mean(tower):
    pool = tower.attnpool
    x = torch.randn(2, 256, 2, 2)
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.positional_embedding
    reference = nn.MultiheadAttention(256, pool.num_heads, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([pool.q_proj.weight, pool.k_proj.weight, pool.v_proj.weight]))
        reference.in_proj_bias.copy_(torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]))
        reference.out_proj.weight.copy_(torch.eye(256))
        reference.out_proj.bias.zero_()
    mixed, _ = reference(tokens[:, :1], tokens, tokens)
    torch.testing.assert_close(pool(x), pool.c_proj(mixed.squeeze(1)))


def test_nothing_is_excepted_from_weight_decay(tower):
    assert tower.no_weight_decay() == set()


@pytest.mark.parametrize("unlocked", range(8))
@pytest.mark.parametrize("freeze_bn_stats", [False, True])
def test_locks_all_but_the_last_groups(tower, image, unlocked, freeze_bn_stats):
    groups = [["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
    groups.append(["attnpool"])
    tower.lock(unlocked, freeze_bn_stats)
    frozen = {name for group in groups[: max(0, 6 - unlocked)] for name in group}
    for name, parameter in tower.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen), name
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    tower.train()(image)
    moved = {key for key, value in tower.state_dict().items() if not torch.equal(value, before[key])}
    still = {key.split(".")[0] for key in before if "running_mean" in key} - {key.split(".")[0] for key in moved}
    assert still == ({name for name in frozen if not name.startswith(("conv", "attn"))} if freeze_bn_stats else set())


def test_a_lock_can_be_loosened_step_by_step(tower):
    tower.lock(0)
    assert tinymodels.trainable(tower) == set()
    tower.lock(1)
    assert {name.split(".")[0] for name in tinymodels.trainable(tower)} == {"attnpool"}
    tower.lock(6)
    assert len(tinymodels.trainable(tower)) == len(list(tower.parameters()))


def test_layer_groups_cover_the_tower_once(tower):
    names = [id(parameter) for group in tower.layer_groups() for parameter in group.parameters()]
    assert sorted(names) == sorted(id(parameter) for parameter in tower.parameters())
    assert [group.name for group in tower.layer_groups()] == [
        "embeddings",
        "layer.0",
        "layer.1",
        "layer.2",
        "layer.3",
        "proj",
    ]
