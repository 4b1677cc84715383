"""One wheel holds the three packages, the charts and the examples, and nothing else."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def tracked(folder):
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def read(wheel, ending):
    (name,) = [name for name in wheel.namelist() if name.endswith(ending)]
    return wheel.read(name).decode()


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [("clipctl", ""), ("operator/clip_operator", "operator/"), ("trainer/clip_trainer", "trainer/")],
)
def test_every_tracked_file_of_the_packages_is_inside(wheel, folder, prefix):
    names = {name.removeprefix(prefix) for name in tracked(folder)}
    assert names
    assert names - set(wheel.namelist()) == set()


@pytest.mark.parametrize("folder", ["charts", "examples"])
def test_charts_and_examples_are_inside(wheel, folder):
    names = {f"clipctl/_bundle/{name}" for name in tracked(folder)}
    assert names
    assert names - set(wheel.namelist()) == set()


def test_nothing_else_is_inside(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"clipctl", "clip_operator", "clip_trainer"}
    assert [name for name in wheel.namelist() if "test" in Path(name).stem.split("_") or "/tests/" in name] == []
    assert [name for name in wheel.namelist() if name.endswith((".pyc", ".so"))] == []


def test_metadata_names_one_version_one_command_and_the_extras(wheel):
    metadata = email.message_from_string(read(wheel, ".dist-info/METADATA"))
    assert metadata["Name"] == "clipctl"
    assert set(metadata.get_all("Provides-Extra")) == {
        "trainer",
        "operator",
        "helm",
        "hf",
        "parquet",
        "syntax",
        "tensorboard",
        "timm",
        "wandb",
        "all",
    }
    assert metadata["License-Expression"] == "MIT"
    assert "clipctl = clipctl.cli:main" in read(wheel, ".dist-info/entry_points.txt")


def test_the_light_installation_needs_neither_torch_nor_numpy(wheel):
    metadata = email.message_from_string(read(wheel, ".dist-info/METADATA"))
    always = [need for need in metadata.get_all("Requires-Dist") if "extra ==" not in need]
    assert [need for need in always if need.startswith(("torch", "numpy", "pillow", "simplejpeg", "webdataset"))] == []
    assert any(need.startswith("pydantic") for need in always)


def test_the_version_is_the_one_the_program_prints(wheel):
    from clipctl.version import version

    metadata = email.message_from_string(read(wheel, ".dist-info/METADATA"))
    assert metadata["Version"] == version()
