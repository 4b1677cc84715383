"""What `data.train` and `data.val` may be: a directory of shards, a brace pattern of shards, or one shard.

A location splits into a *base* (a directory path or URL) and, unless every shard of the directory is meant, the names
of the shards relative to it. Shards may also be what commands print (`pipe:`), where the environment allows that.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple, overload

from clipctl.contract.errors import SpecError

MAX_SHARDS = 1_000_000
"""A pattern may stand for at most this many shards."""

INDEX_NAME = "index.json"

_SCHEME = re.compile(r"\A([a-z][a-z0-9+.-]*):")
_LOCAL = frozenset({"", "file"})
_OWN = frozenset({"s3", "http", "https"})
PIPE_PREFIX = "pipe:"
ALLOW_PIPE = "CLIPCTL_ALLOW_PIPE"
"""Environment variable that allows `pipe:` locations with the value 1."""
_RANGE = re.compile(r"\A(\d+)\.\.(\d+)\Z")
_NUMBER_LIMIT = 18  # digits; keeps `{0..9...9}` from becoming a number that takes long to print


class Location(NamedTuple):
    """A parsed location. `base` has no trailing slash; `names` is None for "all shards of the directory"."""

    scheme: str  # "" for a local path
    base: str
    names: tuple[str, ...] | None


def parse_location(url: str) -> Location:
    """Split a location as a user writes it.

    Raises:
        SpecError: unsupported scheme, or a brace pattern that is malformed or too large.
    """
    if not url.strip() or "\0" in url:
        raise SpecError("A data location is empty.", hint="Give a directory of shards, a pattern or a .tar file.")
    match = _SCHEME.match(url)
    scheme = match.group(1) if match else ""
    if scheme == "pipe":
        return _pipe(url)
    if scheme not in _LOCAL | _OWN and not _is_known(scheme, url):
        raise SpecError(
            f"{url}: the scheme {scheme!r} is not supported.",
            hint="Use a local path, file://, s3://, http://, https:// or a scheme that fsspec knows (gs://, az://).",
        )
    path = url.removeprefix("file://") if scheme == "file" else url
    local = scheme in _LOCAL
    directory, shards = _split(path)
    if local:
        directory = str(Path(directory or ".").expanduser())
    return Location("" if local else scheme, directory.rstrip("/") or "/", shards)


def _is_known(scheme: str, url: str) -> bool:
    """Whether fsspec has a client for a scheme. Chains (`simplecache::s3://...`) are nothing it is asked about."""
    from clip_trainer.data.storage.source_fsspec import knows_scheme

    return url.startswith(f"{scheme}://") and knows_scheme(scheme)


def _pipe(url: str) -> Location:
    """The commands that a pattern stands for; their shards are numbered."""
    if os.environ.get(ALLOW_PIPE) != "1":
        raise SpecError(
            f"{url}: commands (pipe:) are not run unless that is allowed.",
            hint=f"Give the address of the shards themselves, or set {ALLOW_PIPE}=1 if you trust the command.",
        )
    commands = expand_braces(url.removeprefix(PIPE_PREFIX))
    return Location("pipe", url, tuple(f"shard-{number:06d}.tar" for number in range(len(commands))))


def _split(path: str) -> tuple[str, tuple[str, ...] | None]:
    """Directory part and shard names; the directory ends before the first brace."""
    brace = path.find("{")
    if brace < 0 and "}" not in path:
        if not path.endswith(".tar"):
            return path, None
        directory, _, name = path.rpartition("/")
        return directory or ("/" if path.startswith("/") else "."), (name,)
    cut = path.rfind("/", 0, brace if brace >= 0 else len(path)) + 1
    return path[:cut] or ".", expand_braces(path[cut:])


def expand_braces(pattern: str) -> tuple[str, ...]:
    """Expand `{000..127}` (zero-padded as its first number is) and `{a,b,c}`, leftmost slowest, as a shell does.

    Raises:
        SpecError: unbalanced or nested braces, a reversed or too large range, a repeated name.
    """
    parts: Sequence[Sequence[str]] = _parts(pattern)
    total = math.prod(len(part) for part in parts)
    if total > MAX_SHARDS:
        raise SpecError(
            f"The pattern {pattern!r} stands for {total} shards; at most {MAX_SHARDS} are allowed.",
            hint="Check the numbers in the braces.",
        )
    names = tuple("".join(choice) for choice in product(*parts))
    if len(set(names)) < len(names):
        raise SpecError(f"The pattern {pattern!r} names a shard twice.")
    return names


def _parts(pattern: str) -> list[Sequence[str]]:
    """Literal stretches and brace groups of a pattern, each as the sequence of its choices."""
    parts: list[Sequence[str]] = []
    for piece in re.split(r"(\{[^{}]*\})", pattern):
        if not piece.startswith("{"):
            if "{" in piece or "}" in piece:
                raise SpecError(f"The pattern {pattern!r} has unbalanced or nested braces.")
            parts.append([piece])
        elif match := _RANGE.match(piece[1:-1]):
            parts.append(_Range(match.group(1), match.group(2), pattern))
        elif "," in piece:
            parts.append(piece[1:-1].split(","))
        else:
            raise SpecError(
                f"The pattern {pattern!r} has a brace group that is neither a range nor a list.",
                hint="Write {000000..000127} or {a,b,c}.",
            )
    return parts


class _Range(Sequence[str]):
    """The numbers of a brace range as zero-padded strings, produced on demand: its length costs nothing."""

    def __init__(self, first: str, last: str, pattern: str) -> None:
        if max(len(first), len(last)) > _NUMBER_LIMIT or int(first) > int(last):
            raise SpecError(f"The pattern {pattern!r} has a range from {first} to {last}.")
        self._numbers = range(int(first), int(last) + 1)
        self._width = len(first) if first.startswith("0") else 1

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(number) for number in self._numbers[index]]
        return self._text(self._numbers[index])

    def _text(self, number: int) -> str:
        return f"{number:0{self._width}d}"
