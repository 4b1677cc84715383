"""What must never stand in the product: unfinished work, this machine, other machines' mirrors, code from data."""

import ast
import functools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = (ROOT / "clipctl", ROOT / "operator" / "clip_operator", ROOT / "trainer" / "clip_trainer")
TEXT_SUFFIXES = {".py", ".toml", ".md", ".yaml", ".yml", ".tpl", ".json", ".sh", ".cfg", ".ini", ".txt", ""}
THIS_FILE = Path(__file__).name

UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|NotImplemented" + r"Error")
# Absolute paths of a development machine, and anything beside the repository.
THIS_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home)/(?!\.cache/)[\w.]|\.\./shared\b")
# Package indexes are chosen by the user's own pip, npm, go or apt configuration.
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted|registry\.npmjs|proxy\.golang|deb\.debian\.org|rubygems\.org|crates\.io"
)
SECRET_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bghp_\w{30,}|\bhf_\w{30,}"
)


def python_files(folders=PRODUCT):
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def tracked_text():
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    paths = [ROOT / name for name in names if name and Path(name).suffix in TEXT_SUFFIXES]
    return [path for path in paths if path.is_file() and path.name != THIS_FILE]


def hits(pattern, paths):
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


def calls(tree, *names):
    """Calls of `names`, each given as it is written, for example `torch.load`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


@functools.cache
def trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in python_files()]


def test_nothing_is_unfinished():
    assert hits(UNFINISHED, python_files()) == []


def test_no_absolute_path_of_a_development_machine():
    assert hits(THIS_MACHINE, tracked_text()) == []


def test_no_package_registry_is_named():
    assert hits(REGISTRIES, [path for path in tracked_text() if path.suffix != ".md"]) == []


def test_no_secrets_in_the_repository():
    allowed = ("tests/",)  # the redaction tests need things that look like credentials
    assert [hit for hit in hits(SECRET_SHAPES, tracked_text()) if not hit.startswith(allowed)] == []


@pytest.mark.parametrize("module", ["pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"])
def test_nothing_unpickles(module):
    pattern = re.compile(rf"^\s*(import|from)\s+{module}\b")
    assert hits(pattern, python_files()) == []


def test_torch_load_and_object_collectives_are_not_used():
    """Both unpickle what somebody else wrote or sent; `weights_only=True` is the safe form of the first."""
    unsafe = []
    for path, tree in trees():
        unsafe += [
            f"{path.name}:{call.lineno}"
            for call in calls(tree, "torch.load")
            if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
        ]
        names = [f"{module}.{name}" for module in ("dist", "torch.distributed") for name in OBJECT_COLLECTIVES]
        unsafe += [f"{path.name}:{call.lineno}" for call in calls(tree, *names)]
    assert unsafe == []


OBJECT_COLLECTIVES = (
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
)


def test_no_code_from_strings_and_no_shell():
    unsafe = []
    for path, tree in trees():
        unsafe += [f"{path.name}:{c.lineno}" for c in calls(tree, "eval", "exec", "compile", "os.system", "os.popen")]
        unsafe += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False"
        ]
        unsafe += [f"{path.name}:{c.lineno}" for c in calls(tree, "yaml.load", "yaml.unsafe_load", "yaml.full_load")]
    assert unsafe == []


def test_errors_for_users_are_not_asserts_on_their_input():
    """`assert` disappears under `python -O`; the product uses it for its own invariants only, and never with IO."""
    offenders = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and any(calls(node, "open", "os.path.exists", "input"))
    ]
    assert offenders == []


def test_no_bare_except_swallows_the_interrupt():
    offenders = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (UNFINISHED, "# TO" + "DO later"),
        (UNFINISHED, "raise NotImplemented" + "Error"),
        (THIS_MACHINE, "open('/work" + "/main/x')"),
        (THIS_MACHINE, "see ../sha" + "red/design.md"),
        (REGISTRIES, "https://py" + "pi.org/simple"),
        (SECRET_SHAPES, "AKIA" + "ABCDEFGHIJKLMNOP"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern, text):
    assert pattern.search(text)


@pytest.mark.parametrize("text", ["workers/main", "x = 'artwork/a'", "https://host/work/x", "target=/root/.cache/uv"])
def test_the_patterns_do_not_fire_on_ordinary_text(text):
    assert [p.pattern for p in (UNFINISHED, THIS_MACHINE, REGISTRIES, SECRET_SHAPES) if p.search(text)] == []
