"""Tables as text: `.csv` and `.tsv` with a header line, `.jsonl` with an object per line.

A table is read twice. The first pass checks every row and remembers where it lies (16 bytes a row); the second reads
single rows in the order of packing.
"""

from __future__ import annotations

import csv
import json
import os
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash

from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.item import ClassNames, PackItem
from clip_trainer.data.progress import Progress, ProgressEvent
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError, UnavailableError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TELL_EVERY = 10_000  # lines
TEXT_TABLES = (*_DELIMITERS, ".jsonl")

Row = dict[str, Any]


class TextTable:
    """The rows of a table as items; implements `PackSource`.

    Args:
        path: the table.
        columns: what its columns mean.
        separator: of the cells of a `.csv` or `.tsv`; None means a comma and a tabulator.
        strict: fail at the first row without image or caption; else that row is an item that cannot be packed.
        progress: told how many MiB of the table are checked.

    Raises:
        MissingError: the table does not exist, or no row is left.
        SpecError: unknown kind of table, a missing column or a malformed row; names the line.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        *,
        separator: str | None = None,
        strict: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._path, self._columns = path, columns
        self._format = _format(path, separator)
        self._starts, self._lengths, self._lines = array("Q"), array("I"), array("I")
        self._file = _open(path)
        weakref.finalize(self, os.close, self._file)
        content = xxhash.xxh3_128()
        self.classes = self._scan(_Lines(self._file, path, content.update, progress), strict)
        self.identity = f"{content.hexdigest()}-{columns.identity(path.parent)}{separator or ''}"
        if not self._starts:
            chosen = f" with {columns.split_column} = {columns.split!r}" if columns.split is not None else ""
            raise MissingError(f"{path} has no rows{chosen}.", hint="Check the table and the split's name.")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> PackItem:
        """Read one row again."""
        raw = os.pread(self._file, self._lengths[number], self._starts[number])
        where = f"{self._path}:{self._lines[number]}"
        return self._columns.item(self._format.parse(raw.decode(), where), where, self._path.parent)

    def _scan(self, lines: _Lines, strict: bool) -> tuple[str, ...]:
        names = ClassNames()
        for place, row in self._format.rows(lines, self._columns):
            if not self._columns.wanted(row):
                continue
            try:
                names.add(self._columns.item(row, f"{self._path}:{place.line}", self._path.parent))
            except Unpackable as problem:
                if strict:
                    raise problem.error from problem
            self._starts.append(place.start)
            self._lengths.append(place.end - place.start)
            self._lines.append(place.line)
        return names.finish()


class _Place(NamedTuple):
    start: int  # bytes
    end: int
    line: int  # the last line of the row, from 1


class _Lines:
    """The lines of a file, and how far they have been read."""

    def __init__(
        self, descriptor: int, path: Path, on_bytes: Callable[[bytes], None], progress: Progress | None
    ) -> None:
        self._descriptor, self.path, self._on_bytes, self._progress = descriptor, path, on_bytes, progress
        self.offset = self.number = 0

    def __iter__(self) -> Iterator[str]:
        with open(self._descriptor, "rb", closefd=False) as file:
            yield from self._texts(file)

    def _texts(self, file: BinaryIO) -> Iterator[str]:
        size = os.fstat(self._descriptor).st_size
        for line in file:
            self._on_bytes(line)
            self.number += 1
            self.offset += len(line)
            if self._progress is not None and self.number % _TELL_EVERY == 0:
                event = ProgressEvent("table", self.offset >> 20, size >> 20, self.offset, self.path.name)
                self._progress(event)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise SpecError(f"{self.path} is not UTF-8 text (line {self.number}).") from error
            yield text.removeprefix("\ufeff") if self.number == 1 else text


class _JsonLines:
    def rows(self, lines: _Lines, columns: Columns) -> Iterator[tuple[_Place, Row]]:
        start = 0
        for line in lines:
            if line.strip():
                row = self.parse(line, f"{lines.path}:{lines.number}")
                yield _Place(start, lines.offset, lines.number), row
            start = lines.offset

    def parse(self, text: str, where: str) -> Row:
        try:
            row = json.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise SpecError(f"{where}: not a JSON object.")
        return row


class _Separated:
    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._header: list[str] = []

    def rows(self, lines: _Lines, columns: Columns) -> Iterator[tuple[_Place, Row]]:
        reader = csv.reader(iter(lines), delimiter=self._delimiter, strict=True)
        start = 0
        try:
            for cells in reader:  # takes no line more than the row needs, so the offset is the row's end
                place = _Place(start, lines.offset, lines.number)
                start = lines.offset
                if cells and not self._header:
                    self._header = _checked_header(cells, columns, f"{lines.path}:{place.line}")
                elif cells:
                    yield place, self._row(cells, f"{lines.path}:{place.line}")
        except csv.Error as error:
            raise SpecError(f"{lines.path}:{lines.number}: {error}.") from error

    def parse(self, text: str, where: str) -> Row:
        return self._row(next(csv.reader([text], delimiter=self._delimiter)), where)

    def _row(self, cells: list[str], where: str) -> Row:
        if len(cells) != len(self._header):
            raise SpecError(f"{where}: the row has another number of cells than the header.")
        return dict(zip(self._header, cells, strict=True))


def _checked_header(cells: list[str], columns: Columns, where: str) -> list[str]:
    """The header, if it has the columns that every row must have."""
    needed = {columns.image: "image", **dict.fromkeys(columns.captions, "caption")}
    needed |= dict.fromkeys(columns.metadata, "metadata")
    for column, use in needed.items():
        if column not in cells:
            option = "--keep-metadata" if use == "metadata" else f"--{use}-column"
            raise SpecError(
                f"{where}: no column {column!r}; there are {', '.join(map(repr, cells))}.",
                hint=f"Name the column with {option}, or check --separator.",
            )
    return cells


def _format(path: Path, separator: str | None) -> _JsonLines | _Separated:
    kind = path.suffix.lower()
    if kind not in TEXT_TABLES:
        raise SpecError(f"{path}: unknown kind of table.", hint="Give a .csv, .tsv, .jsonl or .parquet file.")
    if separator is not None and len(separator) != 1:
        raise SpecError(f"A separator is one character, not {separator!r}.", hint="Or write `tab`.")
    return _JsonLines() if kind == ".jsonl" else _Separated(separator or _DELIMITERS[kind])


def _open(path: Path) -> int:
    """A descriptor that stays open while it is needed: the table that was checked is the one that is packed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{path} does not exist.") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} may not be read.") from error
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}.") from error
    return descriptor
