"""Size and documentation budgets. If one hurts, split by concept; do not raise it, and never split by line count."""

import ast
import functools
import statistics
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = (ROOT / "clipctl", ROOT / "operator" / "clip_operator", ROOT / "trainer" / "clip_trainer")
SOURCES = (*PRODUCT, ROOT / "testkit" / "clip_testkit")

FILE_MEDIAN = 150
FILE_MAX = 500
FUNCTION_P90 = 35
FUNCTION_MAX = 60
TEST_LINES_PER_SOURCE_LINE = 1.2


@dataclass(frozen=True)
class Function:
    where: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    public: bool

    @property
    def lines(self):
        return self.node.end_lineno - self.node.lineno + 1


def modules(folders=SOURCES):
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def line_count(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def walk(node, prefix, public):
    """All functions below `node`, with whether every name on the way to them is public."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from walk(child, f"{prefix}{child.name}.", public and not child.name.startswith("_"))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            here = public and not child.name.startswith("_")
            yield Function(f"{prefix}{child.name}", child, here)
            yield from walk(child, f"{prefix}{child.name}.", False)
        else:
            yield from walk(child, prefix, public)


@functools.cache
def parsed(folders=SOURCES):
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in modules(folders)]


@functools.cache
def functions(folders=SOURCES):
    return [found for path, tree in parsed(folders) for found in walk(tree, f"{name_of(path)}: ", True)]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def listing(offenders, limit):
    return f"over {limit}:\n" + "\n".join(f"  {value:>4} {where}" for value, where in sorted(offenders, reverse=True))


def test_files_are_small():
    sizes = [(line_count(path), name_of(path)) for path in modules() if path.name != "__init__.py"]
    too_long = [found for found in sizes if found[0] > FILE_MAX]
    assert not too_long, listing(too_long, FILE_MAX)
    middle = statistics.median(size for size, _ in sizes)
    assert middle <= FILE_MEDIAN, f"median file length is {middle}, the budget is {FILE_MEDIAN}"


def test_functions_are_short():
    sizes = [(function.lines, function.where) for function in functions()]
    too_long = [found for found in sizes if found[0] > FUNCTION_MAX]
    assert not too_long, listing(too_long, FUNCTION_MAX)
    ninth = percentile([size for size, _ in sizes], 0.9)
    assert ninth <= FUNCTION_P90, f"p90 of function length is {ninth}, the budget is {FUNCTION_P90}"


def arguments_of(node):
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return [argument for argument in every if argument is not None]


def unannotated(function):
    missing = [a.arg for a in arguments_of(function.node) if a.annotation is None and a.arg not in ("self", "cls")]
    return missing + ([] if function.node.returns is not None else ["return"])


def test_every_function_is_fully_annotated():
    offenders = [f"  {f.where} ({', '.join(unannotated(f))})" for f in functions() if unannotated(f)]
    assert not offenders, "no type for:\n" + "\n".join(offenders)


def test_every_module_has_a_docstring():
    offenders = [name_of(path) for path, tree in parsed() if not ast.get_docstring(tree)]
    assert not offenders, "no docstring in:\n" + "\n".join(offenders)


def undocumented_classes(path, tree):
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{name_of(path)}: {node.name}"


def test_every_public_class_has_a_docstring():
    offenders = [found for path, tree in parsed() for found in undocumented_classes(path, tree)]
    assert not offenders, "no docstring in:\n" + "\n".join(offenders)


def test_every_public_function_has_a_docstring():
    offenders = [f.where for f in functions() if f.public and not ast.get_docstring(f.node)]
    assert not offenders, "no docstring in:\n" + "\n".join(offenders)


def test_there_is_more_test_than_source():
    source = sum(line_count(path) for path in modules(PRODUCT))
    # The testkit is test code: fault injection, fakes, the real cluster.
    tests = sum(line_count(path) for folder in ("tests", "testkit") for path in (ROOT / folder).rglob("*.py"))
    needed = round(source * TEST_LINES_PER_SOURCE_LINE)
    assert tests >= needed, f"{tests} lines of tests for {source} lines of source; {needed} are needed"


def test_the_walk_sees_methods_nested_functions_and_privacy():
    tree = ast.parse("class A:\n  def f(self):\n    def g(): pass\n  async def _h(self, x: int) -> None: pass\n")
    found = {f.where: f for f in walk(tree, "", True)}
    assert {name: f.public for name, f in found.items()} == {"A.f": True, "A.f.g": False, "A._h": False}
    assert unannotated(found["A.f"]) == ["return"]
    assert unannotated(found["A._h"]) == []


def test_the_percentile_is_not_off_by_one():
    assert percentile(range(1, 11), 0.9) == 10
    assert percentile([5], 0.9) == 5
