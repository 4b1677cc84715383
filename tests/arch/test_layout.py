"""The folders must never turn into packages that hide the standard library."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    ROOT / "clipctl",
    ROOT / "operator" / "clip_operator",
    ROOT / "trainer" / "clip_trainer",
    ROOT / "testkit" / "clip_testkit",
)
STDLIB_PROBE = """
import collections, logging, operator, random, select, signal, sys, types
assert operator.itemgetter(1)("ab") == "b"
prefix = sys.base_prefix
bad = [m.__name__ for m in (collections, logging, operator, random, signal, types) if not m.__file__.startswith(prefix)]
assert not bad, bad
"""


def package_of(name):
    return next(folder for folder in PACKAGES if folder.name == name)


@pytest.mark.parametrize("folder", ["operator", "trainer", "testkit", "tests"])
def test_folders_that_hold_packages_are_not_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_nothing_below_tests_is_a_package():
    assert sorted((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("folder", [".", "operator", "trainer", "testkit", "tests"])
def test_python_works_when_run_from(folder):
    # `-c` puts the working directory first on sys.path: a package `operator` there would break Python's own start.
    done = subprocess.run(
        [sys.executable, "-c", STDLIB_PROBE], cwd=ROOT / folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_probe_notices_a_shadowed_module(tmp_path):
    (tmp_path / "random.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", STDLIB_PROBE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0


@pytest.mark.parametrize("package", [folder.name for folder in PACKAGES])
def test_no_module_is_named_like_one_of_the_standard_library(package):
    folder = package_of(package)
    names = {path.stem for path in folder.rglob("*.py")} | {path.name for path in folder.rglob("*") if path.is_dir()}
    assert sorted(names & (sys.stdlib_module_names - {"__init__", "__main__"})) == []


@pytest.mark.parametrize("package", [folder.name for folder in PACKAGES])
def test_every_folder_with_modules_is_a_regular_package(package):
    """A folder without `__init__.py` imports too, but hatchling, mypy and import-linter treat it differently."""
    folders = {path.parent for path in package_of(package).rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_names_of_test_files_are_unique():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_generated_or_binary_files_are_tracked():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    suffixes = (".pyc", ".so", ".tar", ".safetensors", ".pt", ".pth", ".whl", ".zip", ".egg", ".log", ".bin")
    assert [name for name in tracked.split("\0") if name.endswith(suffixes)] == []
