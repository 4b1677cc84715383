"""Keys, shapes and types of every model's state, and the order of its parameters, are OpenCLIP's.

The committed digests come from the oracle (`scripts/make_model_golden.py`), so this needs no oracle itself.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from clip_trainer.model import create_model, get_config, model_names

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((Path(__file__).parent / "model_state_dicts.json").read_text())["models"]
OWN = {"ViT-small-8-64", "ViT-tiny-4-32", "ViT-tiny-8-32"}


def is_native(name):
    config = get_config(name)
    return config.vision.kind != "timm" and config.text.kind == "native"


NATIVE = [name for name in GOLDEN if is_native(name)]
FROM_LIBRARIES = [name for name in GOLDEN if not is_native(name)]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_model_golden", ROOT / "scripts" / "make_model_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_every_name_of_openclip_has_a_digest():
    assert len(GOLDEN) == 144
    assert set(model_names()) == set(GOLDEN) | OWN
    assert (len(NATIVE), len(FROM_LIBRARIES)) == (58, 86)


@pytest.mark.parametrize("name", NATIVE)
def test_native_models_store_what_openclip_stores(script, name):
    assert script.fingerprint(create_model(name, device="meta")) == GOLDEN[name]


@pytest.mark.long
@pytest.mark.parametrize("name", FROM_LIBRARIES)
def test_models_made_with_libraries_store_what_openclip_stores(script, name):
    assert script.fingerprint(create_model(name, device="meta")) == GOLDEN[name]


def test_the_digest_sees_every_difference(script):
    import torch
    from torch import nn

    def net(width=3, dtype=torch.float32, order=("a", "b")):
        return nn.ModuleDict({name: nn.Linear(2, width, dtype=dtype) for name in order})

    same = script.fingerprint(net())
    assert script.fingerprint(net()) == same
    assert same["tensors"] == 4
    assert same["parameters"] == 18
    for other in (net(width=4), net(dtype=torch.float64), net(order=("a", "c"))):
        assert script.fingerprint(other)["state"] != same["state"]
    swapped = script.fingerprint(net(order=("b", "a")))
    assert swapped["state"] == same["state"]
    assert swapped["order"] != same["order"]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-e-14", "ViT-M-16-alt", "RN50x4", "ViT-L-14-worldwide"])
def test_the_committed_digests_are_the_oracles(open_clip, script, name, monkeypatch):
    from open_clip import hf_model

    monkeypatch.setattr(hf_model.AutoConfig, "from_pretrained", hf_model.AutoConfig.from_pretrained)
    assert script.fingerprint(script.oracle_model(name)) == GOLDEN[name]


@pytest.mark.long
@pytest.mark.parity
def test_all_committed_digests_are_the_oracles(open_clip, script, monkeypatch):
    from open_clip import hf_model

    monkeypatch.setattr(hf_model.AutoConfig, "from_pretrained", hf_model.AutoConfig.from_pretrained)
    assert set(open_clip.list_models()) == set(GOLDEN)
    wrong = [name for name in GOLDEN if script.fingerprint(script.oracle_model(name)) != GOLDEN[name]]
    assert wrong == []


@pytest.mark.parity
def test_the_configurations_are_the_oracles(open_clip):
    from clip_trainer.model import raw_config

    for name in open_clip.list_models():
        assert raw_config(name) == open_clip.get_model_config(name), name
