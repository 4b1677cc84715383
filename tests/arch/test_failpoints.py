"""Every failpoint is registered, stands at one place, and is reached by a test."""

import ast
import functools
from collections import Counter
from pathlib import Path

from clipctl.contract.failpoint_names import NAMES

ROOT = Path(__file__).parents[2]
PRODUCT = (ROOT / "clipctl", ROOT / "operator" / "clip_operator", ROOT / "trainer" / "clip_trainer")
TESTS = ROOT / "tests"
THIS_FILE = Path(__file__).name


def placed(tree):
    """Names in the calls of `failpoint` in a module; None for one that is not a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "failpoint":
            (name,) = node.args
            yield name.value if isinstance(name, ast.Constant) else None


@functools.cache
def in_the_source():
    return Counter(
        name
        for folder in PRODUCT
        for path in folder.rglob("*.py")
        if path.name != "failpoints.py"
        for name in placed(ast.parse(path.read_text(encoding="utf-8")))
    )


@functools.cache
def literals_of_tests():
    found = set()
    for path in TESTS.rglob("*.py"):
        if path.name != THIS_FILE:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {text for text in found if isinstance(text, str)}


def test_names_are_written_out():
    assert in_the_source()[None] == 0


def test_what_stands_in_the_source_is_registered_and_the_other_way_round():
    assert {name for name in in_the_source() if name} == set(NAMES)


def test_no_failpoint_stands_at_two_places():
    assert {name: count for name, count in in_the_source().items() if count > 1} == {}


def test_every_failpoint_is_named_by_a_test():
    assert sorted(name for name in NAMES if not any(name in text for text in literals_of_tests())) == []


def test_names_say_area_and_place():
    assert [name for name in NAMES if name.count(".") < 1 or not name.replace(".", "").replace("_", "").isalnum()] == []


def test_the_search_sees_calls_of_every_form():
    tree = ast.parse("failpoint('a.b')\nfailpoints.failpoint('c.d')\nfailpoint(name)\nother('e.f')")
    assert list(placed(tree)) == ["a.b", "c.d", None]
