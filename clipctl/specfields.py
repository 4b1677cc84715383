"""The shape of RunSpec, as needed to say which field somebody may have meant."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any

from clipctl.contract.sections import Section
from clipctl.contract.spec import RunSpec
from clipctl.yamlsafe import Path


def section_at(path: Path) -> type[Section] | None:
    """The section whose fields stand below `path`; None where none do."""
    current: Any = RunSpec
    mapping = False
    for part in path:
        if isinstance(part, int) or mapping:
            mapping = False  # an index, or the key of a mapping: `current` is the section of the elements already
            continue
        info = current.model_fields.get(part)
        if info is None:
            return None
        current, mapping = _contained(info.annotation), typing.get_origin(info.annotation) is dict
        if current is None:
            return None
    return None if mapping else current


def suggest_field(path: Path) -> str:
    """The field most likely meant by the unknown field at `path`; empty if none is near."""
    name = str(path[-1])
    section = section_at(path[:-1])
    siblings = list(section.model_fields) if section is not None else []
    near = nearest(name, siblings)
    if near:
        return near
    elsewhere = [field for field in field_paths() if field.rpartition(".")[2] == name]
    return elsewhere[0] if len(elsewhere) == 1 else ""


def nearest(word: str, candidates: list[str]) -> str:
    """The candidate closest to `word`, upper and lower case being equal; empty if none is close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word[:128].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def field_paths(section: type[Section] = RunSpec, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields that are not sections themselves."""
    for name, info in section.model_fields.items():
        inner = _contained(info.annotation)
        path = f"{prefix}{name}"
        if isinstance(inner, type) and issubclass(inner, Section) and typing.get_origin(info.annotation) is not dict:
            yield from field_paths(inner, f"{path}.")
        if inner is None or _may_be_a_value(info.annotation) or typing.get_origin(info.annotation) is dict:
            yield path


def _may_be_a_value(annotation: Any) -> bool:
    """Whether an annotation such as `str | tuple[Section, ...]` allows something that holds no section."""
    choices = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    return any(_contained(choice) is None and choice is not types.NoneType for choice in choices)


def _contained(annotation: Any) -> type[Section] | None:
    """The section inside an annotation such as `Section | None`, `tuple[Section, ...]` or `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in typing.get_args(annotation):
        found = _contained(argument)
        if found is not None:
            return found
    return None
