"""The process behind `clipctl eval`."""

import json
import subprocess
import sys

import pytest

from clip_testkit.evalwork import evaluation, small_encoder, write_captioned_dataset, write_class_folders
from clip_trainer.eval import command
from clip_trainer.model.interchange import CONFIG_FILE, WEIGHTS_FILE, open_clip_config, to_bytes
from clipctl.contract.errors import ClipError, MissingError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, pairs, and a folder of classes."""
    folder, model = tmp_path_factory.mktemp("command"), small_encoder().model
    (folder / "model").mkdir()
    (folder / "model" / WEIGHTS_FILE).write_bytes(to_bytes(model.state_dict()))
    (folder / "model" / CONFIG_FILE).write_text(json.dumps(open_clip_config(model.config)))
    write_captioned_dataset(folder / "pairs", [11, 6])
    write_class_folders(folder / "classes", {"a": 0, "b": 5, "c": 9})
    return folder


def section(place):
    labelled = {"folder": str(place / "classes"), "classes": ["a", "b", "c"], "templates": "simple"}
    return {"zero_shot": labelled, "retrieval": {"data": str(place / "pairs")}}


def request(place, tmp_path, **changes):
    values = {"model": f"local-dir:{place / 'model'}", "pretrained": None, "precision": "fp32", "device": "cpu"}
    path = tmp_path / "request.json"
    path.write_text(json.dumps({**values, "processes": 1, "eval": section(place), **changes}))
    return str(path)


def test_it_finds_what_the_library_finds(place, tmp_path):
    found = command.main([request(place, tmp_path)])
    wanted = evaluation(0, 1, section(place))
    assert (found["processes"], found["device"]) == (1, "cpu")
    assert found["results"].keys() == wanted.keys()
    for name, metrics in wanted.items():
        assert found["results"][name] == pytest.approx(metrics, abs=1e-6)


def test_a_model_that_is_not_there(place, tmp_path):
    with pytest.raises(ClipError, match="nowhere"):
        command.main([request(place, tmp_path, model="local-dir:nowhere")])


def test_weights_that_cannot_be_had(place, tmp_path):
    with pytest.raises(ClipError, match="missing"):
        command.main([request(place, tmp_path, model="ViT-tiny-8-32", pretrained=str(place / "missing.safetensors"))])


def test_a_device_that_is_not_there(place, tmp_path, monkeypatch):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match="no CUDA device"):
        command.main([request(place, tmp_path, device="cuda")])


@pytest.mark.long
def test_several_processes_share_the_work(place, tmp_path):
    arguments = [sys.executable, "-m", "clip_trainer.eval.command", request(place, tmp_path, processes=2)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])["result"]
    assert answer["processes"] == 2
    for name, metrics in evaluation(0, 1, section(place)).items():
        assert answer["results"][name] == pytest.approx(metrics, abs=1e-6)
