"""Tables of image addresses and captions, as CC3M, CC12M and LAION publish them.

A `.tsv` or `.csv` table may lack a header: if a cell of its first line is an http address, that line is data, the
other cell is the caption, and so `caption<TAB>url` (CC3M) and `url<TAB>caption` (CC12M) both need no options. With a
header, in `.jsonl` and in `.parquet`, columns have names. `.gz` behind the ending of a text table is understood.

Nothing on the web is perfect, tables of it neither: a line with another number of cells is a row without an address,
bytes that are not UTF-8 become U+FFFD. Such rows keep their number and fail alone.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import xxhash

from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError

URL_NAMES = ("url", "image_url", "img_url")
CAPTION_NAMES = ("caption", "text", "title", "alt")
"""Columns that are taken if none is named, in any case of letters; the first that exists."""

_ADDRESS = ("http://", "https://")
_PARQUET_BATCH = 65_536  # rows


class Row(NamedTuple):
    """One row. The number is its place in the table, from 0, and names its sample for good."""

    number: int
    url: str  # "" if the row has none, or is damaged
    caption: str


class Survey(NamedTuple):
    """What a table holds, from reading it once."""

    rows: int
    digest: str  # xxh3-128 over addresses and captions


class TableColumns(NamedTuple):
    """Names of the columns that a user chose; None to find them."""

    url: str | None = None
    caption: str | None = None


USUAL_COLUMNS = TableColumns()


def survey(path: str | Path, columns: TableColumns = USUAL_COLUMNS) -> Survey:
    """Read a table once, so that what is wrong with it is said before the first request.

    Raises:
        SpecError: see `read_rows`.
        MissingError: there is no such table, or it has no rows.
    """
    digest, rows = xxhash.xxh3_128(), 0
    for row in read_rows(path, columns):
        digest.update(f"{row.url}\t{row.caption}\n".encode("utf-8", "surrogatepass"))
        rows += 1
    if not rows:
        raise MissingError(f"{path} has no rows.")
    return Survey(rows, digest.hexdigest())


def read_rows(path: str | Path, columns: TableColumns = USUAL_COLUMNS) -> Iterator[Row]:
    """The rows of a table, one at a time: it may be larger than memory.

    Raises:
        SpecError: an unknown kind of table, columns that do not exist, or text no row can be found in.
        MissingError: there is no such file.
    """
    table = Path(path)
    kind = table.with_suffix("").suffix if table.suffix == ".gz" else table.suffix
    reader = {".csv": _csv_pairs, ".tsv": _tsv_pairs, ".jsonl": _json_pairs, ".parquet": _parquet_pairs}.get(kind)
    if reader is None or (kind == ".parquet" and table.suffix == ".gz"):
        raise SpecError(f"{table}: unknown kind of table.", hint="Give a .tsv, .csv, .jsonl or .parquet file.")
    try:
        for number, (url, caption) in enumerate(reader(table, columns)):
            yield Row(number, url.strip(), caption.strip())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(f"{table} does not exist.") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{table} may not be read.") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise SpecError(f"{table} is not a whole gzip file.") from error


def _open(table: Path, newline: str) -> IO[str]:
    if table.suffix == ".gz":
        return gzip.open(table, "rt", encoding="utf-8-sig", errors="replace", newline=newline)
    return table.open(encoding="utf-8-sig", errors="replace", newline=newline)


def _csv_pairs(table: Path, columns: TableColumns) -> Iterator[tuple[str, str]]:
    with _open(table, newline="") as file:
        reader = csv.reader(file)
        try:
            yield from _pairs(reader, columns, table)
        except csv.Error as error:
            raise SpecError(f"{table}:{reader.line_num}: {error}.") from error


def _tsv_pairs(table: Path, columns: TableColumns) -> Iterator[tuple[str, str]]:
    # The published TSVs hold single quotation marks inside captions: line by line, a stray one harms no other row.
    with _open(table, newline="\n") as file:
        yield from _pairs(map(_tsv_cells, file), columns, table)


def _tsv_cells(line: str) -> list[str]:
    cells = line.rstrip("\r\n").split("\t")
    return [_unquoted(cell) for cell in cells] if '"' in line else cells


def _unquoted(cell: str) -> str:
    """A cell without the quotation marks that spreadsheets and pandas put around it."""
    inner = cell[1:-1]
    quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell


def _pairs(lines: Iterable[Sequence[str]], columns: TableColumns, table: Path) -> Iterator[tuple[str, str]]:
    """Address and caption of every line, whether or not the first one is a header."""
    wanted = (line for line in lines if any(line))
    first = next(wanted, None)
    if first is None:
        return
    bare = any(cell.strip().lower().startswith(_ADDRESS) for cell in first)
    url, caption = _bare_layout(first, columns, table) if bare else _named_layout(first, columns, table)
    if bare:
        yield first[url], first[caption]
    for line in wanted:
        yield (line[url], line[caption]) if len(line) == len(first) else ("", "")


def _bare_layout(first: Sequence[str], columns: TableColumns, table: Path) -> tuple[int, int]:
    """Which cell of a table without a header is what."""
    if columns != USUAL_COLUMNS:
        raise SpecError(f"{table} has no header to find columns by.", hint="Add one, or leave the columns out.")
    if len(first) != 2:
        raise SpecError(f"{table} has no header and {len(first)} columns.", hint="Add a line with the columns' names.")
    url = next(place for place, cell in enumerate(first) if cell.strip().lower().startswith(_ADDRESS))
    return url, 1 - url


def _named_layout(names: Sequence[str], columns: TableColumns, table: Path) -> tuple[int, int]:
    url = _column(names, columns.url, URL_NAMES, f"{table}: no column of addresses", "--url-column")
    caption = _column(names, columns.caption, CAPTION_NAMES, f"{table}: no column of captions", "--caption-column")
    return names.index(url), names.index(caption)


def _column(names: Sequence[str], chosen: str | None, usual: Sequence[str], problem: str, flag: str) -> str:
    """The column that was chosen, or the first usual one."""
    if chosen in names:
        return str(chosen)
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    found = next((by_lower[name] for name in usual if name in by_lower), None) if chosen is None else None
    if found is None:
        raise SpecError(f"{problem} among {', '.join(map(repr, names[:12]))}.", hint=f"Name it with {flag}.")
    return found


def _json_pairs(table: Path, columns: TableColumns) -> Iterator[tuple[str, str]]:
    names: tuple[str, str] | None = None
    with _open(table, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _json_object(line, f"{table}:{number}")
            if names is None:
                url, caption = _named_layout(list(row), columns, table)
                names = list(row)[url], list(row)[caption]
            yield _text(row.get(names[0])), _text(row.get(names[1]))


def _json_object(line: str, where: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise SpecError(f"{where}: not a JSON object.")
    return row


def _parquet_pairs(table: Path, columns: TableColumns) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SpecError(f"{table}: parquet needs pyarrow.", hint="Run `pip install pyarrow`.") from error
    try:
        file: Any = pyarrow.parquet.ParquetFile(table)
        names = list(file.schema_arrow.names)
        url, caption = (names[place] for place in _named_layout(names, columns, table))
        for batch in file.iter_batches(_PARQUET_BATCH, columns=[url, caption]):
            cells = batch.to_pydict()
            yield from ((_text(one), _text(other)) for one, other in zip(cells[url], cells[caption], strict=True))
    except pyarrow.ArrowInvalid as error:
        raise SpecError(f"{table} is not a parquet file: {str(error).splitlines()[0]}") from error


def _text(cell: object) -> str:
    return cell if isinstance(cell, str) else ""
