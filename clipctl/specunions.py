"""One problem for one value: what pydantic says about each choice of a union, put together.

For `X | Y` pydantic reports why the value is no X and why it is no Y, and marks each report with the choice's name in
the location. People wrote one value and want one line about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Error = Mapping[str, Any]

_WRONG_TYPE = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping with fields",
    "string_type": "text",
    "tuple_type": "a list",
}


def merge_unions(errors: Iterable[Error], data: Any) -> list[Error]:
    """The errors with the choices of each union merged, and without those that only follow from others.

    Args:
        errors: what pydantic reports.
        data: the validated document.
    """
    merged: list[Error] = []
    unions: dict[tuple[int | str, ...], list[tuple[str, Error]]] = {}
    for error in errors:
        path, choice, rest = _split(tuple(error["loc"]), data)
        if _counts_only_valid_items(error):
            continue
        if choice is None:
            merged.append(error)
        else:
            unions.setdefault(path, []).append((choice, {**error, "loc": (*path, *rest)}))
    return merged + [error for path, reports in unions.items() for error in _merge(path, reports)]


def _split(
    location: tuple[int | str, ...], data: Any
) -> tuple[tuple[int | str, ...], str | None, tuple[int | str, ...]]:
    """Where the value is, the choice that is spoken of, and the place inside the value."""
    current = data
    for index, step in enumerate(location):
        # In a mapping a step may be a field; names of types such as `tuple[...]`, `constrained-str` and `KeepSection`
        # are none.
        names_a_choice = isinstance(step, str) and (
            not isinstance(current, dict)
            or (step not in current and (not step.isidentifier() or step.endswith("Section")))
        )
        if names_a_choice and step != "[key]":
            return location[:index], str(step), location[index + 1 :]
        try:
            current = current[step]
        except (KeyError, IndexError, TypeError):
            break
    return location, None, ()


def _counts_only_valid_items(error: Error) -> bool:
    """Whether a list is called too short merely because some of its items are wrong (they are reported as well)."""
    found, given = (error.get("ctx") or {}).get("actual_length"), error["input"]
    return error["type"] == "too_short" and isinstance(given, (list, tuple)) and found != len(given)


def _merge(path: tuple[int | str, ...], reports: list[tuple[str, Error]]) -> list[Error]:
    by_choice: dict[str, list[Error]] = {}
    for choice, error in reports:
        by_choice.setdefault(choice, []).append(error)
    for found in by_choice.values():
        if not any(error["loc"] == path and _excludes(error) for error in found):
            return found  # the value is of this kind, but something in it is wrong
    literals = [error for error in (found[0] for found in by_choice.values()) if error["type"] == "literal_error"]
    if literals and isinstance(literals[0]["input"], str):
        return [_as_literal(literals[0], by_choice)]
    kinds = dict.fromkeys(_kind(found[0]) for found in by_choice.values())
    return [{**reports[0][1], "loc": path, "type": "union", "ctx": {"expected": " or ".join(kinds)}}]


def _excludes(error: Error) -> bool:
    return error["type"] in _WRONG_TYPE or error["type"] in ("literal_error", "string_pattern_mismatch")


def _kind(error: Error) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "`")
    return _WRONG_TYPE.get(str(error["type"]), "text")


def _as_literal(error: Error, by_choice: Mapping[str, list[Error]]) -> Error:
    """A word that is none of the known ones; other choices (a list, a file) are named after them."""
    others = []
    for found in by_choice.values():
        if found[0]["type"] == "tuple_type":
            others.append("a list")
        if found[0]["type"] == "string_pattern_mismatch" and ".json" in str(found[0]["ctx"]["pattern"]):
            others.append("a .json file")
    expected = " or ".join([str(error["ctx"]["expected"]), *others])
    return {**error, "ctx": {"expected": expected}}
