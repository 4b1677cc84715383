"""Weights and configuration in OpenCLIP's formats."""

import json

import pytest
import torch

from clip_trainer.model import create_model, get_config
from clip_trainer.model.interchange import (
    from_bytes,
    load_into,
    load_weights,
    open_clip_config,
    save_weights,
    to_bytes,
)
from clipctl.contract.errors import CorruptError, MissingError


@pytest.fixture(scope="module")
def net():
    return create_model("ViT-tiny-8-32", seed=1)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def test_a_file_gives_back_every_tensor(net, tmp_path):
    save_weights(net.state_dict(), tmp_path / "w.safetensors")
    assert_equal(load_weights(tmp_path / "w.safetensors"), net.state_dict())


def test_bytes_give_back_every_tensor_and_type():
    state = create_model("ViT-tiny-8-32", precision="bf16").state_dict()
    assert_equal(from_bytes(to_bytes(state)), state)


def test_views_are_stored_as_what_they_show():
    table = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(from_bytes(to_bytes({"t": table.T}))["t"], table.T)


def test_weights_fit_another_model(net):
    other = create_model("ViT-tiny-8-32", seed=2)
    load_into(other, from_bytes(to_bytes(net.state_dict())))
    assert_equal(other.state_dict(), net.state_dict())


def test_the_prefix_of_distributed_training_is_removed(net):
    other = create_model("ViT-tiny-8-32", seed=2)
    load_into(other, {f"module.{key}": value for key, value in net.state_dict().items()})
    assert_equal(other.state_dict(), net.state_dict())


def test_misfits_are_named_and_change_nothing(net):
    other = create_model("ViT-tiny-8-32", seed=2)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    state = dict(net.state_dict())
    del state["ln_final.weight"]
    state["extra"] = torch.zeros(1)
    state["visual.proj"] = torch.zeros(2, 2)
    with pytest.raises(CorruptError) as caught:
        load_into(other, state)
    for part in ("missing: ln_final.weight", "unexpected: extra", "visual.proj [2, 2] instead of [128, 128]"):
        assert part in caught.value.problem
    assert_equal(other.state_dict(), before)


def test_many_misfits_are_counted(net):
    with pytest.raises(CorruptError, match=r"missing: .* and \d+ more"):
        load_into(net, {})


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingError, match="no weights"):
        load_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("data", [b"", b"not safetensors", b"\xff" * 64])
def test_damaged_files(tmp_path, data):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptError):
        load_weights(path)
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
