"""Image towers made by timm."""

import sys

import pytest
import torch
from torch import nn

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model, get_config, model_names
from clip_trainer.model.config import VisionConfig
from clip_trainer.model.timm_vision import TimmVision
from clipctl.contract.errors import SpecError, UnavailableError


def make(name="test_vit", **vision):
    return create_model(ClipConfig.from_dict(tinymodels.timm(name, **vision), name)).visual


@pytest.fixture(scope="module")
def image():
    return tinymodels.images(160, rows=2, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "vision", "head"),
    [
        ("test_vit", {"pool": "token"}, {"proj.weight": (12, 64)}),
        ("test_vit", {"pool": "token", "proj_bias": True}, {"proj.weight": (12, 64), "proj.bias": (12,)}),
        ("test_vit", {"pool": "avg", "proj": None}, {}),
        ("test_vit3", {"pool": "map", "proj": "mlp"}, {"mlp.fc1.weight": (24, 96), "mlp.fc1.bias": (24,)}),
        ("test_convnext", {"pool": "", "proj": "linear"}, {"proj.weight": (12, 64)}),
        ("test_efficientnet", {"pool": "abs_attn", "proj": None}, {"pool.pos_embed": (26, 256)}),
        ("test_byobnet", {"pool": "rot_attn", "proj": "none"}, {"pool.proj.weight": (12, 256)}),
    ],
)
def test_pooling_and_projection(image, name, vision, head):
    tower = make(name, **vision).eval()
    parameters = {key: tuple(value.shape) for key, value in tower.head.named_parameters()}
    assert head.items() <= parameters.items()
    assert bool(parameters) == bool(head)
    assert tower(image).shape == (2, 12)
    out = tower.forward_intermediates(image)
    torch.testing.assert_close(out["image_features"], tower(image), rtol=1e-4, atol=1e-5)


def test_no_projection_gives_the_networks_own_width(image):
    assert make(pool="avg", proj="none").eval()(image).shape == (2, 64)


def test_fresh_weights_depend_on_the_seed_alone():
    tower = make(pool="token")
    states = []
    for seed in (1, 1, 2):
        before = torch.get_rng_state()
        tower.materialise(seed, pretrained=False)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(tower.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    for key in ("trunk.blocks.0.attn.qkv.weight", "head.proj.weight"):
        assert not torch.equal(states[0][key], states[2][key])


def test_no_tensor_is_left_without_storage():
    # These have tables that no state dict holds: rotary positions, relative positions.
    for name in ("test_vit_relpos", "test_vit3", "test_convnext"):
        tower = make(name, pool="" if name == "test_convnext" else "avg")
        assert not any(tensor.is_meta for tensor in [*tower.parameters(), *tower.buffers()])


def test_another_input_size(image):
    tower = make("test_vit3", pool="avg").eval()
    assert tower.image_size == (160, 160)
    with pytest.raises(AssertionError, match="height"):
        tower(image[..., :96, :96])
    tower.set_input_size((96, 128))
    assert tower.image_size == (96, 128)
    assert tower(image[..., :96, :128]).shape == (2, 12)
    tower.materialise(3, pretrained=False)
    assert tower.eval()(image[..., :96, :128]).shape == (2, 12)


def test_networks_that_take_any_size_take_any_size(image):
    tower = make("test_convnext", pool="").eval()
    tower.set_input_size(96)
    assert tower.image_size == (96, 96)
    assert tower(image[..., :96, :96]).shape == (2, 12)


def test_the_configured_size_does_not_reach_the_network():
    # As in OpenCLIP, whose ViTamin-XL-384 says 256.
    config = get_config("ViTamin-XL-384")
    with torch.device("meta"):
        tower = TimmVision(config.vision, config.embed_dim)
    assert tower.image_size == (256, 256)
    assert tower.trunk.default_cfg["input_size"] == (3, 384, 384)


def test_drop_rates_reach_the_network():
    tower = make("test_vit", pool="token", drop=0.25, drop_path=0.5)
    assert tower.head.drop.p == 0.25
    rates = {module.drop_prob for module in tower.modules() if type(module).__name__ == "DropPath"}
    assert max(rates) == 0.5
    section = VisionConfig(timm_model_name="test_vit", patch_dropout=0.5, timm_pool="token", image_size=160)
    with torch.device("meta"):
        assert any("PatchDropout" in type(module).__name__ for module in TimmVision(section, 12).modules())


def test_weights_of_timm_need_the_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    config = ClipConfig.from_dict(tinymodels.timm("test_vit"), "tiny")
    with pytest.raises(UnavailableError, match="weights of timm's 'test_vit' could not be fetched") as caught:
        create_model(config, pretrained_image=True)
    assert "pretrained_image: false" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "vision", "problem"),
    [
        ("no_such_network", {}, "timm cannot build 'no_such_network'"),
        ("test_vit", {"proj": "cubic"}, "no projection called 'cubic'"),
        ("test_vit", {"pool": "rot_attn"}, "gives tokens"),
        ("test_vit3", {"pool": "token"}, "Token pooling needs the class token"),
        ("test_convnext", {"pool": "banana", "proj": None}, "timm cannot build 'test_convnext'"),
    ],
)
def test_says_what_is_wrong(name, vision, problem):
    with pytest.raises(SpecError, match=problem):
        make(name, **vision)


def test_says_that_timm_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpecError, match="timm is not installed") as caught:
        create_model("convnext_base", device="meta")
    assert "clipctl[timm]" in caught.value.hint


def test_locks_the_network_and_never_the_head():
    tower = make(pool="token", proj_bias=True)
    tower.lock()
    assert tinymodels.trainable(tower) == {"head.proj.weight", "head.proj.bias"}
    counts = []
    for unlocked in range(1, 12):
        tower.lock(unlocked)
        counts.append(len(tinymodels.trainable(tower)))
    assert counts == sorted(counts)
    assert counts[0] > 2
    assert counts[-1] == len(list(tower.parameters()))


@pytest.mark.parametrize("unlocked", [0, 1, 2])
def test_frozen_statistics_do_not_move(image, unlocked):
    tower = make("test_efficientnet").train()
    tower.lock(unlocked, freeze_bn_stats=True)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    tower(image)
    moved = {key for key, value in tower.state_dict().items() if not torch.equal(value, before[key])}
    assert bool(moved) == bool(unlocked)
    norms = {key for key in before if key.endswith("running_mean")}
    assert moved.isdisjoint(key for key in norms if "blocks.0." in key)
    assert len(before) == len(make("test_efficientnet").state_dict())


def test_layer_groups_cover_the_tower_once():
    tower = make(pool="token")
    parameters = [id(parameter) for group in tower.layer_groups() for parameter in group.parameters()]
    assert sorted(parameters) == sorted(id(parameter) for parameter in tower.parameters())
    assert tower.layer_groups()[-1].name == "proj"


def test_intermediates(image):
    tower = make(pool="token").eval()
    out = tower.forward_intermediates(image, indices=(0, 2), output_extra_tokens=True)
    assert [tuple(item.shape) for item in out["image_intermediates"]] == [(2, 64, 10, 10)] * 2
    assert [tuple(item.shape) for item in out["image_intermediates_prefix"]] == [(2, 1, 64)] * 2
    alone = tower.forward_intermediates(image, indices=1, intermediates_only=True, output_fmt="NLC")
    assert list(alone) == ["image_intermediates"]
    assert alone["image_intermediates"][0].shape == (2, 100, 64)


def test_nothing_is_excepted_from_weight_decay():
    assert make().no_weight_decay() == set()


def test_every_named_network_builds_in_shape_only():
    names = {get_config(name).vision.timm_model_name: name for name in model_names()}
    names.pop(None)
    assert len(names) == 55
    for name in ("fastvit_mci0", "eva02_base_patch16_clip_224", "swin_base_patch4_window7_224", "vitamin_small_224"):
        config = get_config(names[name])
        with torch.device("meta"):
            tower = TimmVision(config.vision, config.embed_dim)
        assert all(parameter.is_meta for parameter in tower.parameters())
        assert isinstance(tower.head, nn.Sequential)
