"""Parquet tables, of paths or with the images inside, as Hugging Face and img2dataset write them.

A row of Parquet can only be read together with many others, which a shuffled order would do again and again. So the
columns that matter are copied once into a temporary Arrow file that is mapped into memory: any row of it is read by
itself, and what is in memory is the system's page cache. The file takes as much room as those columns (`TMPDIR` says
where) and has no name, so nothing is left behind however the process ends.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import xxhash

from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.item import ClassNames, PackItem
from clip_trainer.data.progress import Progress, ProgressEvent
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import (
    CannotCreateError,
    ClipError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    SpecError,
)

_BATCH_ROWS = 256  # of the copy; each costs some Python objects, each is checked as a list of Python values
_TAIL = 8  # bytes at a file's end: length of the footer, and the magic word


class ParquetTable:
    """The rows of Parquet files, one after the other, as items; implements `PackSource`.

    Args:
        paths: the files, which have the same columns.
        columns: what these mean.
        strict: fail at the first row without image or caption; else that row is an item that cannot be packed.
        progress: told how many files are copied.

    Raises:
        SpecError: a missing column or a malformed row, or pyarrow is not installed.
        MissingError: a file does not exist, or no row is left.
        CorruptError: a file is damaged.
        CannotCreateError: no room for the temporary copy.
    """

    def __init__(
        self, paths: Sequence[Path], columns: Columns, *, strict: bool = True, progress: Progress | None = None
    ) -> None:
        _require_pyarrow()
        self._progress = progress
        self._columns, self._base, self._strict = columns, paths[0].parent, strict
        self._files = [path.name for path in paths]
        self._file_starts = array("Q", [0])  # of every file, the number of its first row among all rows
        self._batch_starts = array("Q")  # of every batch of the copy, the number of its first item
        self._rows = array("Q")  # of every item, the number of its row
        self._names = ClassNames()
        with tempfile.TemporaryFile(prefix="clipctl-pack-") as copy:
            try:
                self._fill(copy, paths)
            except OSError as error:
                problem = f"The temporary copy of {paths[0]} cannot be written: {error}."
                raise CannotCreateError(problem, hint="Set TMPDIR to a disk with more room.") from error
            if not self._rows:
                chosen = f" with {columns.split_column} = {columns.split!r}" if columns.split is not None else ""
                raise MissingError(f"{paths[0]} has no rows{chosen}.", hint="Check the table and the split's name.")
            self._batches = _mapped(copy)
        self.classes = self._names.finish()
        footers = " ".join(map(_footer_digest, paths))
        self.identity = f"{xxhash.xxh3_128_hexdigest(footers.encode())}-{columns.identity(self._base)}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> PackItem:
        """Read one row from the copy."""
        at = bisect_right(self._batch_starts, number) - 1
        batch, row = self._batches[at], number - self._batch_starts[at]
        cells = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
        return self._columns.item(cells, self._where(self._rows[number]), self._base)

    def _where(self, row: int) -> str:
        """File and row (from 1) of a row among all rows."""
        file = bisect_right(self._file_starts, row) - 1
        return f"{self._base / self._files[file]}:{row - self._file_starts[file] + 1}"

    def _fill(self, copy: IO[bytes], paths: Sequence[Path]) -> None:
        """Copy the rows that are wanted, and check them on the way."""
        import pyarrow as arrow

        schema = writer = None
        for path in paths:
            row = self._file_starts[-1]
            for batch in _read(path, self._columns):
                if writer is None:
                    schema, writer = batch.schema, arrow.ipc.new_file(copy, batch.schema)
                if batch.schema != schema:
                    raise SpecError(f"{path} has other types of columns than {paths[0]}.")
                chosen = self._chosen(batch, row)
                if chosen:
                    self._batch_starts.append(len(self._rows))
                    self._rows.extend(row + place for place in chosen)
                    writer.write_batch(batch.take(arrow.array(chosen)))
                row += batch.num_rows
            self._file_starts.append(row)
            if self._progress is not None:
                done = len(self._file_starts) - 1
                self._progress(ProgressEvent("table", done, len(paths), copy.tell(), path.name))
        if writer is not None:
            writer.close()
        copy.flush()

    def _chosen(self, batch: Any, first: int) -> list[int]:
        """Places within a batch of the rows that are to be packed."""
        chosen = []
        for place, cells in enumerate(batch.to_pylist()):
            if not self._columns.wanted(cells):
                continue
            try:
                self._names.add(self._columns.item(cells, self._where(first + place), self._base))
            except Unpackable as problem:
                if self._strict:
                    raise problem.error from problem
            chosen.append(place)
        return chosen


def parquet_files(directory: Path) -> list[Path]:
    """The Parquet files directly in a directory, sorted: the parts of one table."""
    return sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))


def _read(path: Path, columns: Columns) -> Iterator[Any]:
    """Batches of the columns that matter."""
    from pyarrow import ArrowException, parquet

    with _opened(path) as file:
        try:
            table = parquet.ParquetFile(file)
            names = _wanted_columns(path, table.schema_arrow.names, columns)
            yield from table.iter_batches(batch_size=_BATCH_ROWS, columns=names)
        except (ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise CorruptError(f"{path} is not a Parquet file, or damaged ({reason}).") from error


def _wanted_columns(path: Path, present: Sequence[str], columns: Columns) -> list[str]:
    split = () if columns.split is None else (columns.split_column,)
    needed = (columns.image, *columns.captions, *split, *columns.metadata)
    for column in needed:
        if column not in present:
            raise SpecError(
                f"{path}: no column {column!r}; there are {', '.join(map(repr, present))}.",
                hint="Name the columns with --image-column, --caption-column and --keep-metadata.",
            )
    optional = [column for column in (columns.cls, columns.class_name) if column in present]
    return list(dict.fromkeys((*needed, *optional)))


def _mapped(copy: IO[bytes]) -> list[Any]:
    """The batches of an Arrow file, their columns in mapped memory."""
    import pyarrow as arrow

    memory = mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)
    reader = arrow.ipc.open_file(arrow.BufferReader(arrow.py_buffer(memory)))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _footer_digest(path: Path) -> str:
    """Size and digest of a file's footer, which holds the schema and where every column lies."""
    with _opened(path) as file:
        size = file.seek(-_TAIL, 2) + _TAIL
        length = int.from_bytes(file.read(4), "little")
        file.seek(-min(size, length + _TAIL), 2)
        return f"{size}-{xxhash.xxh3_128_hexdigest(file.read())}"


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        kind: type[ClipError] = PermissionDeniedError if isinstance(error, PermissionError) else MissingError
        raise kind(f"{path} cannot be read: {error.strerror}.") from error


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SpecError("Parquet tables need pyarrow.", hint="Run `pip install 'clipctl[parquet]'`.") from error
