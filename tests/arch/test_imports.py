"""Who may import whom: the contracts of `.importlinter`, and what really ends up in `sys.modules`."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "clipctl": ROOT / "clipctl",
    "clip_operator": ROOT / "operator" / "clip_operator",
    "clip_trainer": ROOT / "trainer" / "clip_trainer",
}
STORAGE_LIBRARIES = {"fsspec", "s3fs", "boto3", "botocore", "aiobotocore", "adlfs", "gcsfs"}
HEAVY = {"torch", "torchvision", "open_clip", "matplotlib"}
LIGHT_TRAINER_MODULES = (
    "data.index.dataset",
    "data.pack.pack",
    "data.pack.input",
    "data.pack.reshard",
    "data.check.stats",
    "data.gather.gather",
    "data.shards.tar",
    "data.index.verify",
    "data.progress",
)


def module_names(package):
    folder = FOLDERS[package]
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imported_packages(path):
    """Top-level packages a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


def importers(libraries):
    return {
        path.relative_to(folder.parent).as_posix()
        for folder in FOLDERS.values()
        for path in folder.rglob("*.py")
        if libraries & imported_packages(path)
    }


def loaded_after(imports):
    code = f"import sys\n{imports}\nprint('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_linter_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_storage_libraries_stay_in_store_and_source_modules():
    allowed = {
        name
        for name in importers(STORAGE_LIBRARIES)
        if Path(name).name.startswith("store") or name.startswith("clip_trainer/data/storage/source")
    }
    assert importers(STORAGE_LIBRARIES) - allowed == set()
    assert "clipctl/contract/store_s3.py" in allowed  # the search does find them


def test_the_kubernetes_client_stays_in_two_places():
    allowed = ("clipctl/apply", "clip_operator/kube")
    assert [name for name in importers({"kubernetes"}) if not name.startswith(allowed)] == []


def test_only_the_trainer_imports_torch():
    assert [name for name in importers(HEAVY) if not name.startswith("clip_trainer/")] == []


def test_the_operator_and_the_trainer_do_not_know_each_other():
    operator = {name for name in importers({"clip_trainer"}) if name.startswith("clip_operator/")}
    trainer = {name for name in importers({"clip_operator"}) if name.startswith("clip_trainer/")}
    assert operator | trainer == set()


@pytest.mark.parametrize("package", ["clipctl", "clip_operator"])
def test_importing_every_module_of_a_light_package_leaves_torch_out(package):
    names = [name for name in module_names(package) if not name.endswith("__main__")]
    assert len(names) > 1
    loaded = loaded_after("\n".join(f"import {name}" for name in names))
    assert loaded & {*HEAVY, "numpy", "PIL"} == set()


def test_the_data_tools_of_the_command_line_work_without_torch_and_numpy():
    loaded = loaded_after("\n".join(f"import clip_trainer.{name}" for name in LIGHT_TRAINER_MODULES))
    assert loaded & {*HEAVY, "numpy"} == set()


def test_the_help_of_the_program_imports_almost_nothing():
    loaded = loaded_after("from clipctl.cli import main\nmain(['--help'])")
    assert loaded & {"typer", "click", "pydantic", "yaml", "rich", "kubernetes", "s3fs", "asyncio"} == set()


def test_the_contract_needs_no_cluster_and_no_storage_library_to_be_imported():
    names = [name for name in module_names("clipctl") if name.startswith("clipctl.contract")]
    loaded = loaded_after("\n".join(f"import {name}" for name in names))
    assert loaded & {*STORAGE_LIBRARIES, "kubernetes", "typer"} == set()
