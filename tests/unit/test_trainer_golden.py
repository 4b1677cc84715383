"""Golden outputs of a model, in-process; and conversion of weights to safetensors."""

import json

import pytest
import torch
from safetensors.torch import load_file

from clip_trainer import golden
from clip_trainer.jsonanswer import answer
from clip_trainer.model.config import ClipConfig
from clip_trainer.pretrained.to_safetensors import convert
from clipctl.contract.errors import CorruptError, MissingError, SpecError

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": [16, 24], "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name="files")
def _files(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(CONFIG))
    arguments = ["mine", str(tmp_path / "golden.json"), "--config", str(tmp_path / "mine.json")]
    golden.run(arguments)
    return tmp_path, arguments


def change(path, **fields):
    content = json.loads(path.read_text())
    content.update(fields)
    path.write_text(json.dumps(content))


def test_what_was_written_is_found_equal(files):
    folder, arguments = files
    assert golden.run([*arguments, "--check"])["equal"] is True
    content = json.loads((folder / "golden.json").read_text())
    assert content["config"]["vision_cfg"]["image_size"] == [16, 24]
    norms = [sum(value**2 for value in row) for row in content["features"]["image"]]
    assert norms == pytest.approx([1.0, 1.0], abs=1e-6)


def test_the_features_depend_on_the_inputs_and_the_seed(files):
    config = ClipConfig.from_dict(CONFIG, "mine")
    one, two = golden.golden(config), golden.golden(config, seed=1)
    assert one["features"] != two["features"]
    assert one["state_dict"] == two["state_dict"]
    assert one["inputs"] == two["inputs"]
    assert one["features"]["text"][0] != one["features"]["text"][1]
    assert one["features"]["image"][0] != one["features"]["image"][1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parameters": 1}, "parameters is"),
        ({"format": 0}, "format is"),
        ({"state_dict": {"tensors": 1}}, "names, shapes or types of the weights differ"),
        ({"config": {**CONFIG, "embed_dim": 8}}, "config differs in .*embed_dim"),
        ({"inputs": {}}, "inputs is"),
        ({"features": {"image": [[0.0] * 16] * 2}}, "image features differ by up to"),
        ({"features": {}}, "the text features have another shape"),
        ({"features": {"image": [[float("nan")] * 16] * 2}}, "image features differ"),
    ],
)
def test_every_difference_is_named(files, fields, words):
    folder, arguments = files
    change(folder / "golden.json", **fields)
    with pytest.raises(CorruptError, match=words) as caught:
        golden.run([*arguments, "--check"])
    assert caught.value.code == 65


def test_differences_within_the_tolerance_are_none(files):
    folder, arguments = files
    content = json.loads((folder / "golden.json").read_text())
    content["features"]["text"][0][3] += golden.TOLERANCE / 2
    (folder / "golden.json").write_text(json.dumps(content))
    golden.run([*arguments, "--check"])


def test_token_ids_are_those_a_text_tower_can_take():
    config = ClipConfig.from_dict(CONFIG, "mine")
    ids = golden.fixed_texts(config)
    assert ids.shape == (2, 8)
    assert int(ids.max()) == config.text.vocab_size - 1
    assert (ids.argmax(-1) == (ids == 63).int().argmax(-1)).all()
    assert (ids >= 0).all()


@pytest.mark.parametrize("content", ["no json", "[]"])
def test_files_that_are_none(tmp_path, content):
    (tmp_path / "golden.json").write_text(content)
    with pytest.raises(CorruptError):
        golden.run(["ViT-tiny-8-32", str(tmp_path / "golden.json"), "--check"])
    with pytest.raises(MissingError, match="without --check"):
        golden.run(["ViT-tiny-8-32", str(tmp_path / "none.json"), "--check"])


def test_answers_of_a_process(capsys):
    def fail(_):
        raise SpecError("wrong.", hint="Mend it.")

    assert answer(lambda arguments: {"got": arguments}, ["a"]) == 0
    assert json.loads(capsys.readouterr().out) == {"result": {"got": ["a"]}}
    assert answer(fail, []) == 64
    assert json.loads(capsys.readouterr().out)["error"] == {"problem": "wrong.", "hint": "Mend it.", "code": 64}


def test_weights_become_safetensors_even_if_they_share_memory(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"module.a": weight, "module.b": weight.T}}, tmp_path / "w.pt")
    told = convert([str(tmp_path / "w.pt"), str(tmp_path / "w.safetensors")])
    assert told["tensors"] == 2
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == {"a", "b"}
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight.T)
    (tmp_path / "broken.pt").write_bytes(b"not weights")
    with pytest.raises(CorruptError):
        convert([str(tmp_path / "broken.pt"), str(tmp_path / "x.safetensors")])
