"""Nothing in a file of weights is ever run: canaries in every place where code could hide."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from clip_trainer.weights.big_vision import read_big_vision
from clip_trainer.weights.inert import Global, Instance, read_pickle
from clip_trainer.weights.read import read_torch, read_weights
from clip_trainer.weights.torchscript import read_torchscript
from clipctl.contract.errors import CorruptError


class Calls:
    """Pickles to `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of the file was run"


def attacks(canary):
    """Objects whose unpickling would create `canary`."""
    touch = f"open({str(canary)!r}, 'w').close()"
    nested = io.BytesIO()
    torch.save({"x": Calls(os.system, f"touch {canary}")}, nested)
    return {
        "os.system": Calls(os.system, f"touch {canary}"),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "subprocess": Calls(subprocess.check_call, ["touch", str(canary)]),
        "open": Calls(open, str(canary), "w"),
        "import": Calls(__import__, "canary_module"),
        "nested load": Calls(torch.storage._load_from_bytes, nested.getvalue()),
        "torch.load": Calls(torch.load, str(canary)),
    }


KINDS = sorted(attacks("x"))


def test_the_attacks_are_real(tmp_path):
    """Otherwise the tests below would prove nothing."""
    path = tmp_path / "hit"
    pickle.loads(pickle.dumps(attacks(path)["eval"]))
    assert path.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_checkpoint_with_an_attack_is_refused(tmp_path, canary, kind, legacy, suffix):
    path = tmp_path / f"weights{suffix}"
    content = {"state_dict": {"a": torch.zeros(2)}, "args": attacks(canary)[kind]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CorruptError) as caught:
        read_weights(path)
    assert "could run code" in caught.value.problem
    assert str(path) in caught.value.problem
    assert "safetensors" in caught.value.hint


def test_the_refusal_names_what_it_found(tmp_path, canary):
    torch.save({"a": attacks(canary)["subprocess"]}, tmp_path / "w.pt")
    with pytest.raises(CorruptError, match=r"(subprocess|commands)\.check_call"):
        read_torch(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_pickle_is_refused(tmp_path, canary, kind):
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(attacks(canary)[kind]))
    with pytest.raises(CorruptError):
        read_weights(path)


def test_a_module_on_the_path_is_not_imported(tmp_path, canary, monkeypatch):
    (tmp_path / "canary_module.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    pickled = b"\x80\x02ccanary_module\nThing\n)\x81."
    (tmp_path / "w.pt").write_bytes(pickled)
    with pytest.raises(CorruptError):
        read_weights(tmp_path / "w.pt")
    assert read_pickle(pickled, "x") == Instance(Global("canary_module", "Thing"), ())
    assert "canary_module" not in sys.modules


@pytest.fixture
def archive(tmp_path):
    """Write a TorchScript-like archive from its parts."""

    def write(data_pkl, code="", extra=()):
        path = tmp_path / "archive.pt"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("m/data.pkl", data_pkl)
            file.writestr("m/constants.pkl", b"\x80\x02).")
            file.writestr("m/code/__torch__.py", code)
            for name, data in extra:
                file.writestr(f"m/{name}", data)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_a_torchscript_archive_with_an_attack_is_refused(archive, canary, kind):
    path = archive(pickle.dumps(attacks(canary)[kind], protocol=2))
    with pytest.raises(CorruptError):
        read_weights(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_among_the_constants_is_not_even_read(tmp_path, canary, kind):
    model = torch.nn.Linear(2, 2)
    path = save_script(model, tmp_path / "m.pt")
    replaced = tmp_path / "bad.pt"
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(replaced, "w") as bad:
        for entry in good.infolist():
            data = good.read(entry)
            if entry.filename.endswith("constants.pkl"):
                data = pickle.dumps(attacks(canary)[kind], protocol=2)
            bad.writestr(entry.filename, data)
    assert read_weights(replaced).state_dict.keys() == model.state_dict().keys()


def test_code_of_an_archive_is_only_looked_at(archive, canary):
    code = f"open({str(canary)!r}, 'w').close()\nclass M(Module):\n  __parameters__ = [open({str(canary)!r}, 'w'), ]\n"
    data = b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00aK\x01sb."
    assert read_torchscript(archive(data, code)) == {}


def save_script(model, path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), path)
    return path


def tensor_pickle(storage=b"FloatStorage", key=b"0", numel=2, offset=0, size=2, stride=1):
    """A module with one tensor, as TorchScript writes it."""
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731
    number = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    persistent = b"(" + text(b"storage") + b"ctorch\n" + storage + b"\n" + text(key) + text(b"cpu") + number(numel)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + persistent[1:] + b"tQ" + number(offset)
    tensor += b"(" + number(size) + b"t(" + number(stride) + b"t\x89}tR"
    return b"\x80\x02c__torch__\nM\n)\x81}" + text(b"a") + tensor + b"sb."


def test_the_hand_made_archive_is_one(archive):
    path = archive(tensor_pickle(), extra=[("data/0", struct.pack("<2f", 1, 2))])
    assert read_torchscript(path)["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"size": 3}, "outside"),
        ({"offset": 1}, "outside"),
        ({"offset": -1}, "outside"),
        ({"stride": 5}, "outside"),
        ({"stride": -1}, "outside"),
        ({"size": -2}, "outside"),
        ({"numel": 9}, "wrong size"),
        ({"storage": b"FileStorage"}, "unknown type"),
        ({"key": b"7"}, "damaged"),
        ({"key": b"../../x"}, "damaged"),
    ],
)
def test_a_tensor_that_lies_about_its_bytes_is_refused(archive, changes, problem):
    path = archive(tensor_pickle(**changes), extra=[("data/0", struct.pack("<2f", 1, 2))])
    with pytest.raises(CorruptError, match=problem):
        read_torchscript(path)


def test_compressed_tensors_are_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", tensor_pickle(numel=1 << 20, size=1 << 20))
        file.writestr("m/constants.pkl", b"\x80\x02).")
        file.writestr("m/data/0", bytes(4 << 20))
    with pytest.raises(CorruptError, match="wrong size"):
        read_torchscript(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02N",
        b"\x80\x02h\x07.",
        b"\x80\x02t.",
        b"\x80\x02NN\x81.",
        b"\x80\x02Nb.",
        b"\x80\x02K\x01K\x01s.",
        b"\x80\x02cos\nsystem\nNR.",
        b"\x80\x02(cos\nsystem\no.",
        b"(S'touch x'\nios\nsystem\n.",
        b"\x80\x02P0\n.",
        b"\x80\x02\x82\x01.",
        b"\xff\xff",
    ],
)
def test_damaged_and_unusual_pickles_are_refused(data):
    with pytest.raises(CorruptError, match="the file"):
        read_pickle(data, "the file")


def test_a_pickled_array_is_refused(tmp_path, canary):
    np.savez(tmp_path / "w.npz", b=np.array([Calls(open, str(canary), "w")], dtype=object))
    with pytest.raises(CorruptError):
        read_big_vision(tmp_path / "w.npz")


@pytest.mark.parametrize("content", ["x", 3, ["a"], {"state_dict": {"a": 1}}, {"a": {"b": torch.zeros(1)}}])
def test_harmless_content_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CorruptError, match="no state dict"):
        read_weights(tmp_path / "w.pt")
