"""The header of an index: `index.json`, small, and the only file that is ever replaced.

It is canonical JSON (sorted keys, no spaces, a line end) of totals, of the rules by which samples were chosen, of the
name, sizes and digest of the table it belongs to, and of its own digest. It is written after its table, whose name is
the table's digest: a reader sees the old pair or the new one, never a mixture.
"""

from __future__ import annotations

import builtins
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import xxhash

from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.storage.location import INDEX_NAME
from clipctl.contract.errors import CorruptError, SpecError

FORMAT = "clipctl-shard-index"
VERSION = 2

INDEX_HINT = "Build it again with `clipctl data index --force`."

_TABLE = re.compile(r"\Aindex-[0-9a-f]{32}\.bin\Z")
_NAME = re.compile(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")


def header_name(name: str | None) -> str:
    """File name of the index a data set calls `name`, or of its main index.

    Raises:
        SpecError: the name cannot be part of a file name.
    """
    if name is None:
        return INDEX_NAME
    if not _NAME.match(name):
        raise SpecError(f"{name!r} is no name for an index.", hint="Use small letters, digits, dots, - and _.")
    return f"index-{name}.json"


@dataclass(frozen=True)
class TableRef:
    """The table that belongs to a header."""

    name: str
    bytes: int
    head_bytes: int
    """Bytes before the blocks of rows."""
    xxh3: str
    """xxh3-128 of the head, hex; the head vouches for the rest."""


@dataclass(frozen=True)
class IndexHeader:
    """What the header says."""

    shards: int
    samples: int
    bytes: int
    identity: str
    """Digest of the shards' names and contents and of which samples are listed; equal for copies."""
    table: TableRef
    rules: SampleRules = field(default_factory=SampleRules)
    suffixes: dict[str, int] = field(default_factory=dict)
    """Samples that have a member with this suffix, those left out included."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Samples left out by the rules, by reason."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Shards left out because they are damaged, and their problems."""

    @cached_property
    def digest(self) -> str:
        """xxh3-128 of the content, hex: changes whenever anything in the index does."""
        return _digest(self._content())

    def to_json(self) -> builtins.bytes:
        """The file."""
        return _canonical({**self._content(), "digest": self.digest})

    @staticmethod
    def from_json(payload: builtins.bytes, where: str) -> IndexHeader:
        """Parse and check a header.

        Raises:
            CorruptError: it is damaged, of another format or version, or contradicts itself.
        """
        content = _parsed(payload, where)
        digest = content.pop("digest", None)
        if digest != _digest(content) or payload != _canonical({**content, "digest": digest}):
            raise CorruptError(f"{where} does not match its own digest.", hint=INDEX_HINT)
        try:
            return _header(content)
        except (KeyError, TypeError, ValueError, SpecError) as error:
            raise CorruptError(f"{where} is not a valid shard index ({error}).", hint=INDEX_HINT) from error

    def _content(self) -> dict[str, Any]:
        content = {**vars(self), "table": dict(vars(self.table)), "rules": self.rules.to_json()}
        content.pop("digest", None)  # where cached_property keeps it
        return {"format": FORMAT, "version": VERSION, **content}


def _header(content: dict[str, Any]) -> IndexHeader:
    del content["format"], content["version"]
    table = TableRef(**content.pop("table"))
    header = IndexHeader(**{**content, "table": table, "rules": SampleRules.from_json(content["rules"])})
    numbers = (header.shards, header.samples, header.bytes, table.bytes, table.head_bytes)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a size is not a number")
    if not isinstance(table.name, str) or not _TABLE.match(table.name) or table.head_bytes > table.bytes:
        raise ValueError("it names no table")
    if not all(isinstance(part, dict) for part in (content["rules"], header.suffixes, header.left_out, header.damaged)):
        raise ValueError("a part is missing")
    return header


def _parsed(payload: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where} is not JSON: it is damaged or another file.", hint=INDEX_HINT) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CorruptError(f"{where} is not a shard index of clipctl.", hint=INDEX_HINT)
    if content.get("version") != VERSION:
        found = content.get("version")
        raise CorruptError(f"{where} has version {found!r}; this clipctl reads {VERSION}.", hint=INDEX_HINT)
    return content


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _digest(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(_canonical(content))
