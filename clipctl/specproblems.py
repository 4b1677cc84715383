"""Turns what pydantic says about a run.yaml into one plain line per problem, at the place in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from clipctl.contract.redact import MASK, is_secret_name, redact
from clipctl.specfields import nearest, suggest_field
from clipctl.yamlsafe import Document, Path, Problem, dotted

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping with fields",
    "model_attributes_type": "a mapping with fields",
}
_PATTERNS = {
    "[a-z]([-a-z0-9]": "may hold only lower-case letters, digits and `-`, and starts with a letter",
    "[a-z0-9]([-a-z0-9]": "may hold only lower-case letters, digits and `-`",
    "[a-z0-9._-]": "may hold only lower-case letters, digits, `.`, `-` and `_`",
    "(txt|json": "is neither `txt` nor `json.` and the name of a field",
    "(m|k|M|G|T": "is not a Kubernetes quantity such as 500m, 4 or 16Gi",
    "[A-Za-z_][A-Za-z0-9_]": "is not the name of an environment variable",
    "^/": "is not an absolute path",
    "[^\\s]": "may not contain spaces",
    "\\x00": "may not contain control characters",
}
_FIELD_IN_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_NUMBER_LIKE = re.compile(r"(?=.*[0-9])[-+0-9_.,:eExXoO]+")


def to_problem(error: Mapping[str, Any] | ErrorDetails, document: Document) -> Problem:
    """Describe one validation error of pydantic as a problem of `document`."""
    path, is_key = _path(error["loc"])
    kind = str(error["type"])
    context = error.get("ctx") or {}
    if kind == "extra_forbidden":
        near = suggest_field(path)
        text = "is not a field" + (f"; did you mean `{near}`?" if near else "")
        return Problem(document.locate(path, key=True), dotted(path), text)
    if kind == "missing":
        return Problem(document.locate(path[:-1], key=True), dotted(path), "is required")
    if kind == "value_error":
        return _own_check(path, str(context.get("error", error["msg"])), document)
    text = _text(kind, context, error["input"], str(error["msg"]), _shown(path, error["input"]))
    return Problem(document.locate(path, key=is_key), dotted(path), text)


def _text(kind: str, context: Mapping[str, Any], value: Any, message: str, shown: str) -> str:
    if kind in _KINDS:
        return f"should be {_KINDS[kind]}, not {shown}{_number_hint(kind, value)}"
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(context, value, shown)
    plain = message.removeprefix("Input ").removeprefix("String ").removeprefix("Value ").removeprefix("Tuple ")
    return f"{plain[:1].lower()}{plain[1:]}, not {shown}"


def _literal(context: Mapping[str, Any], value: Any, shown: str) -> str:
    allowed = re.findall(r"'([^']*)'", str(context["expected"]))
    near = nearest(str(value), allowed) if isinstance(value, str) else ""
    listed = f"is {shown}, should be {str(context['expected']).replace(chr(39), '')}"
    return listed + (f"; did you mean `{near}`?" if near else "")


def _pattern(context: Mapping[str, Any], _value: Any, shown: str) -> str:
    pattern = str(context["pattern"])
    for part, text in _PATTERNS.items():
        if part in pattern:
            return f"{text}: {shown}"
    return f"does not match {pattern}: {shown}"


def _length(word: str, key: str) -> Callable[[Mapping[str, Any], Any, str], str]:
    def write(context: Mapping[str, Any], value: Any, _shown: str) -> str:
        size = len(value) if hasattr(value, "__len__") else "?"
        return f"should have {word} {context[key]} {'characters' if isinstance(value, str) else 'items'}, has {size}"

    return write


def _union(context: Mapping[str, Any], _value: Any, shown: str) -> str:
    return f"should be {context['expected']}, not {shown}"


_WRITERS: dict[str, Callable[[Mapping[str, Any], Any, str], str]] = {
    "literal_error": _literal,
    "union": _union,
    "string_pattern_mismatch": _pattern,
    "string_too_short": _length("at least", "min_length"),
    "string_too_long": _length("at most", "max_length"),
    "too_short": _length("at least", "min_length"),
    "too_long": _length("at most", "max_length"),
}


def _own_check(path: Path, message: str, document: Document) -> Problem:
    """A check of ours spans several fields: point at the first field its message names."""
    if not path or path not in document.values:
        for word in _FIELD_IN_TEXT.findall(message):
            for candidate in ((*path, *word.split(".")), (*path, "env", word)):
                if candidate in document.values:
                    return Problem(document.locate(candidate), dotted(candidate), message)
    for word in _FIELD_IN_TEXT.findall(message):
        candidate = (*path, word)
        if candidate in document.values:
            return Problem(document.locate(candidate), dotted(candidate), message)
    return Problem(document.locate(path), dotted(path), message)


def _path(location: tuple[int | str, ...]) -> tuple[Path, bool]:
    """Pydantic marks a bad key of a mapping with a last element `[key]`."""
    if location and location[-1] == "[key]":
        return tuple(location[:-1]), True
    return tuple(location), False


def _shown(path: Path, value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if any(is_secret_name(str(part)) for part in path):
            return MASK
        short = value if len(value) <= 60 else value[:57] + "..."
        return ascii(redact(short))
    return str(value)


def _number_hint(kind: str, value: Any) -> str:
    if kind in {"int_type", "float_type"} and isinstance(value, str) and value and _NUMBER_LIKE.fullmatch(value):
        return "; write plain digits, without quotes, `_`, `:` or leading zeros"
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    return ""
