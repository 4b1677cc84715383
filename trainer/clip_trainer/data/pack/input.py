"""What `clipctl data pack` is given: a table, a folder per class, or a folder of images with captions beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.folder import CaptionedFolder, ClassFolders, has_sidecars
from clip_trainer.data.pack.item import PackSource
from clip_trainer.data.pack.parquet import ParquetTable, parquet_files
from clip_trainer.data.pack.table import TextTable
from clip_trainer.data.progress import Progress
from clipctl.contract.errors import SpecError

DEFAULT_TEMPLATE = "a photo of a {}."


def open_input(
    path: str | Path,
    columns: Columns | None = None,
    *,
    templates: Sequence[str] = (),
    separator: str | None = None,
    strict: bool = True,
    progress: Progress | None = None,
) -> PackSource:
    """Open whatever can be packed.

    A directory is a Parquet table if it holds `.parquet` files, a folder of images with captions if its first image
    has a `.txt` or `.json` file beside it (and no templates are given), and else has one folder per class.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl` or `.parquet` table, or a directory.
        columns: what the columns of a table (or of `.json` files beside images) mean.
        templates: captions for class folders, with `{}` in the class name's place.
        separator: of the cells of a `.csv` or `.tsv`.
        strict: fail at once if a row of a table has no image or no caption.
        progress: told how far the checking of a table is.

    Raises:
        MissingError, SpecError, CorruptError, PermissionDeniedError: see the classes for each kind.
    """
    path, columns = Path(path).expanduser(), columns or Columns()
    tables = parquet_files(path) if path.is_dir() else [path]
    if tables:
        _refuse(path, "a table", {"--template": templates})
        if tables[0].suffix.lower() == ".parquet":
            return ParquetTable(tables, columns, strict=strict, progress=progress)
        return TextTable(path, columns, separator=separator, strict=strict, progress=progress)
    _refuse(path, "a folder", {"--split": columns.split, "--root": columns.root, "--separator": separator})
    if not templates and has_sidecars(path):
        return CaptionedFolder(path, columns)
    _refuse(path, "a folder for each class", {"--keep-metadata": columns.metadata})
    return ClassFolders(path, templates=templates or (DEFAULT_TEMPLATE,))


def _refuse(path: Path, kind: str, options: Mapping[str, Any]) -> None:
    """Raises SpecError if an option is given that means nothing for this kind of input."""
    for option, value in options.items():
        if value:
            raise SpecError(f"{option} means nothing for {path}, which is {kind}.", hint="Leave the option out.")
