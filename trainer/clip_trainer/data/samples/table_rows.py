"""Rows of tables of image-caption pairs, as OpenCLIP reads them with pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.sections import ColumnsSection
from clipctl.contract.sections.sources import TABLES

_PARQUET_BATCH = 16_384  # rows; bounds what is converted to Python objects at once


class Row(NamedTuple):
    """What is used of a row; a cell that is missing is empty."""

    image: str
    caption: str


def read_rows(file: BinaryIO, name: str, columns: ColumnsSection) -> Iterator[Row]:
    """The rows of a table.

    Like pandas' `read_csv`: a header line, blank lines are skipped, quotes may hold separators and line ends, rows may
    be short. Unlike it nothing is taken for a number or for "not available": cells are texts.

    Args:
        file: the table.
        name: what messages call it; its ending says what it is.
        columns: which columns, and what separates cells.

    Raises:
        SpecError: a column is missing, a row is too long or a quote does not end (with the line), or it is no text.
        CorruptError: a Parquet file is damaged.
        MissingError: pyarrow is needed and not installed.
    """
    ending = next(ending for ending in TABLES if name.lower().endswith(ending))
    if ending == ".parquet":
        yield from _parquet_rows(file, name, columns)
        return
    separator = columns.separator or TABLES[ending]
    assert separator is not None  # texts have one
    try:
        yield from _text_rows(io.TextIOWrapper(file, "utf-8-sig", newline=""), name, columns, separator)
    except UnicodeDecodeError as error:
        raise SpecError(f"{name} is not UTF-8 text ({error.reason}).", hint="Convert it with iconv.") from None


class _Lines:
    """Lines of a text that remembers those of the current row."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.current: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.current.append(line)
        return line


def _text_rows(text: Iterable[str], name: str, columns: ColumnsSection, separator: str) -> Iterator[Row]:
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=separator)
    image = caption = width = -1
    try:
        for cells in reader:
            lines.current, raw = [], lines.current
            if not cells:
                continue
            if width < 0:
                width = len(cells)
                image, caption = (
                    _column(cells, wanted, f"{name}:{reader.line_num}", separator)
                    for wanted in (columns.image, columns.caption)
                )
                continue
            if len(cells) > width:
                raise SpecError(
                    f"{name}:{reader.line_num}: the row has {len(cells)} cells, the header {width}.",
                    hint="Put cells that hold the separator into double quotes.",
                )
            yield Row(*(cells[at] if at < len(cells) else "" for at in (image, caption)))
        _check_end(raw if width >= 0 else [], name, reader.line_num, separator)
    except csv.Error as error:
        raise SpecError(f"{name}:{reader.line_num}: {error}.") from None
    if width < 0:
        raise SpecError(f"{name} is empty.", hint="It needs a header line with the names of its columns.")


def _check_end(last: list[str], name: str, line: int, separator: str) -> None:
    """A quote that never ends would make one caption of the rest of the table."""
    try:
        list(csv.reader(last, delimiter=separator, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise SpecError(f"{name}:{line - len(last) + 1}: a quote does not end.") from None


def _column(header: list[str], wanted: str, where: str, separator: str | None = None) -> int:
    if wanted in header:
        return header.index(wanted)
    parts = "" if separator is None else f", separated by {'a tabulator' if separator == chr(9) else repr(separator)}"
    raise SpecError(
        f"{where}: there is no column {wanted!r} among {', '.join(map(repr, header[:20]))}{parts}.",
        hint="Name the columns in data.columns.",
    )


def _parquet_rows(file: BinaryIO, name: str, columns: ColumnsSection) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingError(f"{name} needs pyarrow.", hint="Install it with: pip install 'clipctl[parquet]'") from None
    wanted = [columns.image, columns.caption]
    try:
        table = parquet.ParquetFile(file)
        for column in wanted:
            _column(table.schema_arrow.names, column, name)
        for batch in table.iter_batches(_PARQUET_BATCH, columns=wanted):
            images, captions = (batch.column(column).to_pylist() for column in wanted)
            yield from (Row(_text(image), _text(text)) for image, text in zip(images, captions, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptError(f"{name} is not a readable Parquet file: {error}.") from None


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
