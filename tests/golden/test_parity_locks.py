"""Locks freeze what OpenCLIP's freeze, tower by tower and group by group."""

import pytest
import torch

from clip_testkit import tinymodels
from clip_testkit.tinymodels import trainable
from clip_trainer.model import ClipConfig, create_model

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("open_clip")]


@pytest.fixture(autouse=True)
def timm_has_not_moved_helpers(monkeypatch):
    """The oracle imports two functions from where timm kept them once; timm warns about that."""
    import sys

    import timm.models

    monkeypatch.setitem(sys.modules, "timm.models.helpers", timm.models)


def models(data):
    config = ClipConfig.from_dict(data, "tiny")
    return create_model(config), tinymodels.oracle(data)


def frozen_norms(model):
    return {name for name, module in model.named_modules() if type(module).__name__ == "FrozenBatchNorm2d"}


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("groups", range(7))
def test_native_towers(custom_text, groups):
    ours, oracle = models(tinymodels.vit(custom_text))
    for model in (ours, oracle):
        model.lock_image_tower(unlocked_groups=groups)
    assert trainable(ours) == trainable(oracle)
    for model in (ours, oracle):
        model.lock_text_tower(unlocked_layers=groups)
    assert trainable(ours) == trainable(oracle)
    assert len(trainable(ours)) > 1 or groups == 0


@pytest.mark.parametrize("groups", [0, 1, 2, 3, 5, 9])
def test_text_and_image_towers_of_coca(groups):
    ours, oracle = models(tinymodels.COCA)
    ours.lock_image_tower(groups), ours.lock_text_tower(groups)
    oracle.visual.lock(groups), oracle.text.lock(groups)
    assert trainable(ours) == trainable(oracle)
    assert "visual.attn_pool.query" not in trainable(ours)


@pytest.mark.parametrize("freeze_bn_stats", [False, True])
def test_modified_resnet(freeze_bn_stats):
    ours, oracle = models(tinymodels.resnet())
    for model in (ours, oracle):
        model.lock_image_tower(freeze_bn_stats=freeze_bn_stats)
    assert trainable(ours) == trainable(oracle)
    assert frozen_norms(ours) == frozen_norms(oracle)
    assert bool(frozen_norms(ours)) == freeze_bn_stats
    tinymodels.fill(ours), tinymodels.fill(oracle)
    for model in (ours, oracle):
        model.visual.train()
    statistics = ours.visual.state_dict()
    # The oracle's frozen norms have no num_batches_tracked; it ignores it when it loads one.
    oracle.visual.load_state_dict(statistics)
    assert oracle.visual.state_dict().keys() <= statistics.keys()
    image = tinymodels.images(64, dtype=torch.float32)
    torch.testing.assert_close(ours.visual(image), oracle.visual(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mt5"])
def test_hugging_face_text_towers(tmp_path, kind, capsys):
    folder = tinymodels.hf_folder(tmp_path / kind, kind)
    for layers in range(6):
        for freeze_layer_norm in (True, False):
            ours, oracle = models(tinymodels.hf(folder))
            for model in (ours, oracle):
                model.lock_text_tower(layers, freeze_layer_norm)
            extra = trainable(ours) - trainable(oracle)
            assert trainable(oracle) <= trainable(ours)
            if kind == "mt5" and not freeze_layer_norm:
                # Ours also knows norms that are not called LayerNorm.
                assert all("layer_norm" in name for name in extra)
            else:
                assert not extra
    assert "Unlocking" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
@pytest.mark.parametrize("freeze_bn_stats", [False, True])
def test_timm_image_towers(name, freeze_bn_stats):
    for groups in (0, 1, 2, 3):
        ours, oracle = models(tinymodels.timm(name, pool="" if name == "test_convnext" else "avg"))
        for model in (ours, oracle):
            model.lock_image_tower(groups, freeze_bn_stats)
        assert trainable(ours) == trainable(oracle)
        assert frozen_norms(ours) == frozen_norms(oracle)
        assert (name == "test_resnet" and freeze_bn_stats) == bool(frozen_norms(ours))
        assert "visual.head.proj.weight" in trainable(ours)


def test_no_norm_is_frozen_where_no_layer_is_though_the_oracle_freezes_all():
    ours, oracle = models(tinymodels.timm("test_resnet"))
    for model in (ours, oracle):
        model.lock_image_tower(50, True)
    assert frozen_norms(oracle)
    assert not frozen_norms(ours)
    assert len(trainable(ours)) == len(list(ours.parameters()))


def test_a_norm_with_a_fused_activation_keeps_it_where_the_oracle_loses_it():
    ours, oracle = models(tinymodels.timm("test_efficientnet"))
    image = tinymodels.images(160, rows=2, dtype=torch.float32)
    tinymodels.fill(ours), tinymodels.fill(oracle)
    ours.eval(), oracle.eval()
    before = ours.encode_image(image)
    torch.testing.assert_close(oracle.encode_image(image), before, rtol=1e-4, atol=1e-5)
    for model in (ours, oracle):
        model.lock_image_tower(0, True)
    torch.testing.assert_close(ours.encode_image(image), before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(oracle.encode_image(image), before, rtol=1e-2, atol=1e-2)
