"""A YAML reader for configuration written by people: bounded, positioned, and without surprises about types.

Aliases, anchors, tags, duplicate keys, deep nesting and large files are refused. Plain scalars follow the JSON subset
of the YAML 1.2 core schema: `3e-4` is a number, while `no`, `12:30`, `1_000` and `017` stay the text they look like.
Nothing here recurses, so no input can exhaust the stack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from clipctl.contract.errors import CannotCreateError, ClipError, MissingError, PermissionDeniedError, SpecError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 30

Path = tuple[str | int, ...]
"""Where a value is in a document: mapping keys and list indices from the root."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*|(?=\.[0-9]))(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
# libyaml is about 20 times faster than the Python parser; both give the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Position:
    """A place in a named source, counted from 1; line 0 means the source as a whole."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where, and in which field (empty for syntax)."""

    position: Position
    field: str
    text: str

    def __str__(self) -> str:
        separator = " " if self.field else ": "
        return f"{self.position}{separator}{self.field + ': ' if self.field else ''}{self.text}"


class DocumentError(SpecError):
    """A document with problems, all of them listed, one per line."""

    def __init__(self, problems: list[Problem], *, hint: str = "") -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = tuple(problems)


@dataclass
class Document:
    """The data of a document, and for every path where its key and its value stand."""

    source: str
    data: Any = None
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)

    def locate(self, path: Path, *, key: bool = False) -> Position:
        """Position of `path`, or of its nearest ancestor that stands in the document."""
        first, second = (self.keys, self.values) if key else (self.values, self.keys)
        for end in range(len(path), -1, -1):
            found = first.get(path[:end]) or second.get(path[:end])
            if found is not None:
                return found
        return Position(self.source, 1, 1)


def read_bounded(path: FilePath) -> bytes:
    """The bytes of a file, at most one more than `MAX_BYTES`.

    Raises:
        MissingError: there is no such file.
        PermissionDeniedError: it may not be read.
        SpecError: it is a directory or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _translate(path, error) from error


def load(data: bytes, source: str) -> Document:
    """Parse `data`; `source` names it in messages.

    Raises:
        DocumentError: for everything that is wrong with it.
    """
    builder = _Builder(Document(source))
    try:
        for event in _events(_decode(data, source)):
            builder.take(event)
    except yaml.YAMLError as error:
        builder.problems.append(_syntax_problem(error, source))
    except _Stop:
        pass
    if builder.problems:
        raise DocumentError(builder.problems)
    return builder.document


def resolve_plain(text: str) -> Any:
    """The value of an unquoted scalar. Raises `ValueError` for a number outside of any sensible range."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"the number has more than {MAX_DIGITS} digits")
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("the number is too large")
        return number
    return text


class _Stop(Exception):
    """Parsing on makes no sense after a problem of this kind."""


@dataclass
class _Frame:
    """A container that is being filled."""

    container: Any
    path: Path
    key: str | None = None


class _Builder:
    """Turns the flat stream of parser events into data, without recursion."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self._stack: list[_Frame] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """Consume one event."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(event, "only one document is allowed in a file")
        elif isinstance(event, yaml.AliasEvent):
            self._stop(event, f"aliases (*{event.anchor}) are not allowed; write the value out")
        elif isinstance(event, (yaml.ScalarEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._node(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._stack.pop()

    def _node(self, event: Any) -> None:
        if event.anchor is not None:
            self._stop(event, f"anchors (&{event.anchor}) are not allowed")
        if event.tag is not None:
            self._stop(event, f"tags ({event.tag}) are not allowed")
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.container, dict) and frame.key is None:
            self._key(frame, event)
            return
        path = self._next_path(frame)
        self.document.values[path] = self._position(event)
        self._place(frame, self._value(event, path))

    def _key(self, frame: _Frame, event: Any) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(event, "a key must be plain text")
        key = self._text(event)
        position = self._position(event)
        path = (*frame.path, key)
        if key in frame.container:
            first = self.document.keys[path]
            self.problems.append(Problem(position, dotted(path), f"stands here and in line {first.line} already"))
        else:
            self.document.keys[path] = position
        frame.key = key

    def _next_path(self, frame: _Frame | None) -> Path:
        if frame is None:
            return ()
        return (*frame.path, len(frame.container) if frame.key is None else frame.key)

    def _value(self, event: Any, path: Path) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(self._stack) >= MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        return {} if isinstance(event, yaml.MappingStartEvent) else []

    def _place(self, frame: _Frame | None, value: Any) -> None:
        path = self._next_path(frame)
        if frame is None:
            self.document.data = value
        elif frame.key is None:
            frame.container.append(value)
        else:
            frame.container[frame.key] = value
            frame.key = None
        if isinstance(value, (dict, list)):
            self._stack.append(_Frame(value, path))

    def _scalar(self, event: Any, path: Path) -> Any:
        text = self._text(event)
        if event.style:
            return text
        try:
            return resolve_plain(text)
        except ValueError as error:
            self.problems.append(Problem(self._position(event), dotted(path), str(error)))
            return text

    def _text(self, event: Any) -> str:
        text = str(event.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._stop(event, "the text is not valid Unicode")
        return text

    def _position(self, event: Any) -> Position:
        mark = event.start_mark
        return Position(self.document.source, mark.line + 1, mark.column + 1)

    def _stop(self, event: Any, text: str) -> None:
        self.problems.append(Problem(self._position(event), "", text))
        raise _Stop


def dotted(path: Path) -> str:
    """`("scale", "tolerations", 0)` as `scale.tolerations[0]`, with anything unprintable escaped."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + _printable(part)
    return text


def _printable(text: str) -> str:
    short = text if len(text) <= 60 else text[:57] + "..."
    return short if short.isprintable() else ascii(short)


def _events(text: str) -> Iterator[Any]:
    yield from yaml.parse(text, Loader=_LOADER)


def _decode(data: bytes, source: str) -> str:
    start = Position(source, 1, 1)
    if len(data) > MAX_BYTES:
        raise DocumentError([Problem(start, "", f"larger than {MAX_BYTES // 1024} KiB")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = _position_at(data[: error.start].decode("utf-8-sig", "ignore"), source)
        raise DocumentError([Problem(position, "", f"not UTF-8 text (byte {error.start})")]) from error
    nul = text.find("\0")
    if nul >= 0:
        raise DocumentError([Problem(_position_at(text[:nul], source), "", "a NUL byte: this is not a text file")])
    return text


def _position_at(before: str, source: str) -> Position:
    return Position(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _syntax_problem(error: yaml.YAMLError, source: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        position = Position(source, mark.line + 1, mark.column + 1) if mark else Position(source, 1, 1)
        text = error.problem or error.context or "not YAML"
        if "maximum nesting depth" in text:  # newer parsers look so far ahead that they stop before we do
            return Problem(position, "", f"nested deeper than {MAX_DEPTH} levels")
        context = f" ({error.context})" if error.context and error.context != text else ""
        tabs = "; indent with spaces, not tabs" if "cannot start any token" in text else ""
        return Problem(position, "", f"{text}{context}{tabs}")
    return Problem(Position(source, 1, 1), "", str(getattr(error, "reason", None) or "not YAML"))


def _translate(path: FilePath, error: OSError) -> ClipError:
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{path} does not exist.", hint="Give the path of a run.yaml.")
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"no permission to read {path}.", hint="Check the mode of the file.")
    if isinstance(error, IsADirectoryError):
        return SpecError(f"{path} is a directory.", hint="Give the path of a run.yaml.")
    return CannotCreateError(f"cannot read {path}: {error.strerror or error}.")
