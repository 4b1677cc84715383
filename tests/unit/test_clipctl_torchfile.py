"""Checkpoints written without torch are what torch reads."""

import io
import zipfile

import pytest
import torch

from clip_testkit.safetensorsfiles import read_tensors
from clipctl import torchfile

CONTENT = {
    "epoch": 3,
    "name": "Zürich – run",
    "nothing": None,
    "flags": [True, False],
    "numbers": [0, 1, -1, 127, 128, -128, 255, 2**31, -(2**40), 10**30],
    "floats": (0.0, -0.5, 1e-300, float("inf")),
    "empty": [{}, [], (), ""],
    "state": {0: {"step": 1}, 7: {}},
}
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def stored(**tensors):
    import safetensors.torch

    return read_tensors(safetensors.torch.save(tensors))


def load(content, **options):
    file = io.BytesIO()
    torchfile.write(file, content)
    file.seek(0)
    return torch.load(file, weights_only=True, **options)


def test_plain_values():
    assert load(CONTENT) == CONTENT


def test_types_of_values_are_kept():
    read = load(CONTENT)
    assert [type(value) for value in read["floats"]] == [float] * 4
    assert [type(value) for value in read["flags"]] == [bool] * 2
    assert type(read["floats"]) is tuple


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type(dtype):
    table = torch.randint(0, 2, (3, 5)).to(getattr(torch, dtype))
    read = load({"a": stored(t=table)["t"]})["a"]
    assert (read.dtype, read.shape) == (table.dtype, table.shape)
    assert torch.equal(read, table)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (4,), (2, 3), (2, 1, 3, 4), (5, 0, 2)])
def test_tensors_of_every_shape(shape):
    table = torch.randn(shape)
    read = load([stored(t=table)["t"]])[0]
    assert read.shape == table.shape
    assert read.is_contiguous()
    assert torch.equal(read, table)


def test_many_tensors_keep_their_names():
    tensors = {f"layer.{i}": torch.full((i + 1,), float(i)) for i in range(300)}
    read = load(dict(stored(**tensors)))
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_the_file_can_be_mapped_into_memory(tmp_path):
    tensors = {f"t{i}": torch.randn(i + 1) for i in range(20)}
    torchfile.save(tmp_path / "w.pt", dict(stored(**tensors)))
    read = torch.load(tmp_path / "w.pt", weights_only=True, mmap=True)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert all(value.data_ptr() % 64 == 0 for value in read.values())


def test_it_is_an_ordinary_uncompressed_zip_file():
    file = io.BytesIO()
    torchfile.write(file, {"a": stored(t=torch.zeros(3))["t"]})
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["archive/data.pkl", "archive/byteorder", "archive/data/0", "archive/version"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_value_that_is_not_plain_is_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="set"):
        torchfile.write(io.BytesIO(), {"a": {1, 2}})


def test_writing_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, clipctl.torchfile; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
