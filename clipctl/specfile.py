"""Loads run.yaml: bytes to a validated `RunSpec`, or all problems at once, each with its place in the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from clipctl import models
from clipctl.contract.errors import SpecError
from clipctl.contract.spec import RunSpec
from clipctl.specfields import nearest
from clipctl.specproblems import to_problem
from clipctl.specunions import merge_unions
from clipctl.yamlsafe import Document, DocumentError, Path, Position, Problem, dotted, load, read_bounded

_MAX_PROBLEMS = 50


def load_spec(file: str, overrides: Sequence[str] = ()) -> RunSpec:
    """Read and validate the run.yaml at `file`.

    Args:
        file: path as given by the user; it stands in front of every problem.
        overrides: `dotted.path=value`, as `--set` takes them; the values are YAML.

    Raises:
        DocumentError: exit code 64, with every problem.
        MissingError: there is no such file.
    """
    return parse_spec(read_bounded(FilePath(file)), file, overrides)


def parse_spec(data: bytes, source: str, overrides: Sequence[str] = ()) -> RunSpec:
    """`load_spec` for bytes that are already here."""
    document = load(data, source)
    if document.data is None:
        raise DocumentError([Problem(Position(source, 1, 1), "", "the file is empty")], hint=_HINT)
    if not isinstance(document.data, dict):
        where = document.locate(())
        raise DocumentError([Problem(where, "", "should be a mapping of fields such as `name: my-run`")], hint=_HINT)
    for override in overrides:
        _override(document, override)
    return _validate(document)


_HINT = "See `clipctl schema` for all fields."


def _validate(document: Document) -> RunSpec:
    problems: list[Problem] = []
    spec: RunSpec | None = None
    try:
        spec = RunSpec.model_validate(document.data)
    except ValidationError as error:
        found = merge_unions(error.errors(include_url=False), document.data)
        problems = [to_problem(detail, document) for detail in found]
    problems += _unknown_model(document)
    if spec is None or problems:
        problems.sort(key=lambda problem: (problem.position.line, problem.position.column))
        raise DocumentError(_capped(problems))
    return spec


def _capped(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= _MAX_PROBLEMS:
        return problems
    rest = len(problems) - _MAX_PROBLEMS
    last = problems[_MAX_PROBLEMS]
    return [*problems[:_MAX_PROBLEMS], Problem(last.position, "", f"and {rest} more problems from here on")]


def _unknown_model(document: Document) -> list[Problem]:
    """The one value whose set of allowed values is not in the schema: it depends on the installed trainer.

    With `model.config` any name will do; what has a scheme (`hf-hub:`, `local-dir:`, an address) is looked up later.
    """
    section = document.data.get("model")
    name = section.get("name") if isinstance(section, dict) else None
    if isinstance(section, dict) and (section.get("config") is not None or ":" in str(name)):
        return []
    known = models.model_names()
    if not isinstance(name, str) or not name or not known or models.canonical_name(name) in known:
        return []
    near = nearest(models.canonical_name(name), list(known))
    text = f"there is no model {name[:80]!a}" + (
        f"; did you mean `{near}`?" if near else f"; known: {', '.join(known[:20])}"
    )
    return [Problem(document.locate(("model", "name")), "model.name", text)]


def _override(document: Document, override: str) -> None:
    """Apply one `--set path=value` in place. Raises `SpecError` if it has not that form."""
    name, separator, text = override.partition("=")
    if not separator or not all(name.split(".")):
        raise SpecError(
            f"--set {override[:80]!a} is not of the form field.name=value.", hint="As: --set train.steps=100"
        )
    source = f"--set {name}"
    value = load(text.encode("utf-8", "surrogateescape"), source).data
    container, path = _container(document, name.split("."))
    container[path[-1]] = value
    for known in [p for p in document.values if p[: len(path)] == path]:
        del document.values[known]
        document.keys.pop(known, None)
    document.keys[path] = document.values[path] = Position("--set")


def _container(document: Document, names: list[str]) -> tuple[Any, Path]:
    current: Any = document.data
    path: list[str | int] = []
    for name in names[:-1]:
        step = _step(current, name, tuple(path))
        if isinstance(current, dict) and current.get(step) is None:
            current[step] = {}
            document.values[(*path, step)] = Position("--set")
        current = current[step]
        path.append(step)
    return current, (*path, _step(current, names[-1], tuple(path)))


def _step(container: Any, name: str, path: Path) -> Any:
    """`name` as a key of `container`: a string for mappings, an index for lists."""
    if isinstance(container, dict):
        return name
    if isinstance(container, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(container):
        return int(name)
    problem = f"{dotted(path)} has no element {name[:40]!a}"
    raise DocumentError([Problem(Position("--set"), dotted((*path, name)), problem)])
