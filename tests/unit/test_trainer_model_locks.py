"""Freezing groups of layers."""

import pytest
import torch
from torch import nn

from clip_testkit import tinymodels
from clip_testkit.tinymodels import trainable
from clip_trainer.model import ClipConfig, create_model
from clip_trainer.model.intermediates import wanted_indices
from clip_trainer.model.locks import LayerGroup, lock_groups, thaw_layer_norms
from clip_trainer.model.skip_fills import SkipFills

IMAGE_GROUPS = [
    {"conv1", "class_embedding", "positional_embedding", "ln_pre"},
    {"transformer.resblocks.0"},
    {"transformer.resblocks.1"},
    {"transformer.resblocks.2", "ln_post"},
    {"proj"},
]
TEXT_GROUPS = [
    {"token_embedding", "positional_embedding"},
    {"transformer.resblocks.0"},
    {"transformer.resblocks.1"},
    {"transformer.resblocks.2", "ln_final"},
    {"text_projection"},
]


def make(custom_text=False, **text):
    return create_model(ClipConfig.from_dict(tinymodels.vit(custom_text, **text), "tiny"))


def below(names, prefixes):
    return {name for name in names if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)}


@pytest.mark.parametrize("unlocked", range(8))
def test_image_tower_of_clip(unlocked):
    model = make()
    names = {name for name, _ in model.named_parameters()}
    model.lock_image_tower(unlocked)
    still = {f"visual.{prefix}" for group in IMAGE_GROUPS[max(0, 5 - unlocked) :] for prefix in group}
    image = {name for name in names if name.startswith("visual.")}
    assert trainable(model) == (names - image) | below(names, still)


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("unlocked", range(8))
def test_text_tower_of_clip(custom_text, unlocked):
    model = make(custom_text)
    names = {name for name, _ in model.named_parameters()}
    model.lock_text_tower(unlocked)
    prefix = "text." if custom_text else ""
    still = {prefix + part for group in TEXT_GROUPS[max(0, 5 - unlocked) :] for part in group}
    others = {name for name in names if name.startswith("visual.")} | {"logit_scale"}
    assert trainable(model) == others | below(names, still)


@pytest.mark.parametrize("custom_text", [False, True])
def test_layer_norms_of_a_native_text_tower_can_stay_trainable(custom_text):
    # OpenCLIP refuses this, and so its plain --lock-text.
    model = make(custom_text)
    model.lock_image_tower()
    model.lock_text_tower(0, freeze_layer_norm=False)
    tower = "text." if custom_text else ""
    assert trainable(model) == {"logit_scale"} | {
        f"{tower}{norm}.{kind}"
        for norm in ("ln_final", *(f"transformer.resblocks.{i}.ln_{j}" for i in range(3) for j in (1, 2)))
        for kind in ("weight", "bias")
    }


def test_frozen_parameters_get_no_gradient_and_the_rest_the_same():
    image, text = tinymodels.images(16, dtype=torch.float32), tinymodels.texts()
    free, locked = make(), make()
    locked.lock_image_tower(2)
    locked.lock_text_tower(1)
    for model in (free, locked):
        out = model(image, text)
        (out.logit_scale * out.image_features @ out.text_features.T).square().sum().backward()
    wanted = dict(free.named_parameters())
    for name, parameter in locked.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted[name].grad)


def test_fixed_positions_stay_fixed_however_much_is_unlocked():
    data = tinymodels.vit()
    data["vision_cfg"] = data["vision_cfg"] | {"pos_embed_type": "sin_cos_2d"}
    model = create_model(ClipConfig.from_dict(data, "tiny"))
    model.lock_image_tower(99)
    assert "visual.positional_embedding" not in trainable(model)
    assert "visual.conv1.weight" in trainable(model)


def test_a_lock_can_be_moved():
    model = make()
    counts = []
    for unlocked in (0, 3, 1, 99, 0):
        model.lock_image_tower(unlocked)
        counts.append(len([name for name in trainable(model) if name.startswith("visual.")]))
    assert counts[0] == counts[4] == 0
    assert counts[1] > counts[2] == 1
    assert counts[3] == len(list(model.visual.parameters()))


def test_groups_are_cut_from_the_output():
    layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    extra = nn.Parameter(torch.zeros(1))
    groups = [LayerGroup("embeddings", [layers[0], extra]), *(LayerGroup(f"layer.{i}", [layers[i]]) for i in (1, 2))]
    lock_groups(layers, groups, 1)
    assert trainable(layers) == {"2.weight", "2.bias"}
    assert not extra.requires_grad
    lock_groups(layers, groups, 3)
    assert extra.requires_grad


def test_norms_of_any_library_are_thawed():
    class SomeRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    parts = nn.ModuleList([nn.LayerNorm(2), SomeRMSNorm(), nn.Linear(2, 2), nn.BatchNorm2d(2)])
    parts.requires_grad_(False)
    thaw_layer_norms(parts.modules())
    assert trainable(parts) == {"0.weight", "0.bias", "1.weight"}


@pytest.mark.parametrize(
    ("indices", "expected"), [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, -1], [0, 3]), ((1,), [1]), (4, [0, 1, 2, 3])]
)
def test_wanted_intermediates(indices, expected):
    assert wanted_indices(4, indices) == expected


@pytest.mark.parametrize("indices", [0, 5, -1, [4], [-5]])
def test_intermediates_out_of_range(indices):
    with pytest.raises(ValueError, match="out of range"):
        wanted_indices(4, indices)


def test_fills_are_skipped_without_storage_only():
    with SkipFills():
        real = torch.zeros(1000).normal_()
        assert real.std() > 0.5
        assert torch.zeros(2).add_(1).tolist() == [1.0, 1.0]
        shape = torch.empty(3, 2, device="meta")
        assert shape.uniform_(-1, 1).mul_(2) is shape
        assert shape.is_meta
    with torch.device("meta"), SkipFills():
        layer = nn.Linear(3, 2)
    assert layer.weight.is_meta
    assert layer.weight.shape == (2, 3)
