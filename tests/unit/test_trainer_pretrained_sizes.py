"""The table of parameter counts agrees with the models as they are built."""

import json
from importlib import resources

import pytest

from clip_trainer.model import config_catalogue
from clip_trainer.model.config import model_names
from clip_trainer.pretrained.sizes import ModelSize, model_size


def built(name):
    from clip_trainer.model.factory import create_model

    model = create_model(name, device="meta")
    return ModelSize(
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for parameter in model.visual.parameters()),
    )


def test_every_named_model_has_its_size(monkeypatch):
    monkeypatch.setattr(config_catalogue, "_added", {})
    assert [name for name in model_names() if model_size(name) is None] == []
    text = resources.files("clip_trainer.pretrained").joinpath("sizes.json").read_text()
    assert set(json.loads(text)) == set(model_names())


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "coca_ViT-B-32", "ViT-H-14-CLIPA", "ViT-tiny-8-32"])
def test_the_table_is_right(name):
    assert model_size(name) == built(name)


@pytest.mark.long
@pytest.mark.parametrize("name", model_names())
def test_the_whole_table_is_right(name):
    assert model_size(name) == built(name)


def test_names_may_have_slashes_and_may_be_unknown():
    assert model_size("ViT-B/32") == ModelSize(151277313, 87849216)
    assert model_size("ViT-B/32").rest == 151277313 - 87849216
    assert model_size("mine") is None


def test_variants_that_differ_in_activation_alone_have_one_size():
    for name in model_names():
        if name.endswith("-quickgelu"):
            assert model_size(name) == model_size(name.removesuffix("-quickgelu"))
