"""Weights and configuration in OpenCLIP's formats."""

import json

import pytest
import torch

from clip_trainer.model import create_model, get_config
from clip_trainer.model.interchange import (
    from_bytes,
    open_clip_config,
    save_weights,
    to_bytes,
)
from clip_trainer.weights.activation import ActivationMismatch
from clip_trainer.weights.load import load_file, load_state
from clip_trainer.weights.read import read_weights
from clipctl.contract.errors import CorruptError


@pytest.fixture(scope="module")
def net():
    return create_model("ViT-tiny-8-32", seed=1)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def test_a_file_gives_back_every_tensor(net, tmp_path):
    save_weights(net.state_dict(), tmp_path / "w.safetensors")
    assert_equal(read_weights(tmp_path / "w.safetensors").state_dict, net.state_dict())


def test_bytes_give_back_every_tensor_and_type():
    state = create_model("ViT-tiny-8-32", precision="bf16").state_dict()
    assert_equal(from_bytes(to_bytes(state)), state)


def test_views_are_stored_as_what_they_show():
    table = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(from_bytes(to_bytes({"t": table.T}))["t"], table.T)


def test_weights_fit_another_model(net):
    other = create_model("ViT-tiny-8-32", seed=2)
    load_state(other, from_bytes(to_bytes(net.state_dict())))
    assert_equal(other.state_dict(), net.state_dict())


@pytest.mark.parametrize("data", [b"", b"not safetensors", b"\xff" * 64])
def test_damaged_bytes(data):
    with pytest.raises(CorruptError):
        from_bytes(data)


def test_a_truncated_file(net):
    with pytest.raises(CorruptError):
        from_bytes(to_bytes(net.state_dict())[:-10])


def test_the_configuration_is_json_in_openclips_layout():
    written = json.loads(json.dumps(open_clip_config(get_config("ViT-tiny-8-32"))))
    assert written["model_cfg"]["vision_cfg"]["patch_size"] == 8
    assert written["model_cfg"]["text_cfg"]["context_length"] == 24
    assert written["preprocess_cfg"]["mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert written["preprocess_cfg"]["resize_mode"] == "shortest"


@pytest.mark.parametrize("quick_gelu", [True, False, None])
def test_the_activation_is_recorded(net, tmp_path, quick_gelu):
    (tmp_path / "w.safetensors").write_bytes(to_bytes(net.state_dict(), quick_gelu=quick_gelu))
    assert read_weights(tmp_path / "w.safetensors").quick_gelu is quick_gelu
    save_weights(net.state_dict(), tmp_path / "w.safetensors", quick_gelu=quick_gelu)
    assert read_weights(tmp_path / "w.safetensors").quick_gelu is quick_gelu


def test_weights_written_for_the_other_activation_are_refused(net, tmp_path):
    save_weights(net.state_dict(), tmp_path / "w.safetensors", quick_gelu=True)
    with pytest.raises(ActivationMismatch):
        load_file(create_model("ViT-tiny-8-32"), tmp_path / "w.safetensors")
