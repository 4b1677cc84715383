"""What is to be packed: image files with their captions, from a table or from a folder per class."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_trainer.data.grouping import IMAGE_SUFFIXES
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class PackItem:
    """One pair (or image with several captions) to pack."""

    image: Path
    captions: tuple[str, ...]
    cls: int | None = None
    class_name: str | None = None


def plan_manifest(
    path: str | Path,
    *,
    image_column: str = "image",
    caption_columns: Sequence[str] = ("caption",),
    class_column: str = "cls",
    class_name_column: str = "class_name",
    split: str | None = None,
    split_column: str = "split",
    root: str | Path | None = None,
    separator: str | None = None,
) -> tuple[PackItem, ...]:
    """Read a table of images: `.csv` or `.tsv` with a header line, or `.jsonl` with an object per line.

    A caption cell may be a list of strings in JSON lines; several caption columns add up. Image paths are relative
    to `root`, by default the table's directory. The class columns are optional.

    Args:
        path: the table.
        image_column: column of image paths.
        caption_columns: columns of captions.
        class_column: column of class numbers.
        class_name_column: column of class names.
        split: keep only rows whose `split_column` says this; None keeps all rows.
        split_column: column that names a row's split.
        root: directory that image paths are relative to.
        separator: of the cells of a `.csv` or `.tsv`; None means a comma and a tabulator.

    Raises:
        MissingError: the table or an image does not exist, or no row is left.
        SpecError: unknown kind of table, a missing column or a malformed row; names the line.
    """
    if separator is not None and len(separator) != 1:
        raise SpecError(f"A separator is one character, not {separator!r}.", hint="Or write `tab`.")
    table = Path(path)
    base = Path(root) if root is not None else table.parent
    items = []
    for line, row in _rows(table, separator):
        if split is not None and str(row.get(split_column) or "") != split:
            continue
        where = f"{table}:{line}"
        image = _image(base, row.get(image_column), image_column, where)
        captions = tuple(text for column in caption_columns for text in _texts(row, column, where))
        name = row.get(class_name_column)
        cls = _class_number(row.get(class_column), class_column, where)
        items.append(PackItem(image, captions, cls, str(name) if name else None))
    if not items:
        chosen = f" with {split_column} = {split!r}" if split is not None else ""
        raise MissingError(f"{table} has no rows{chosen}.", hint="Check the table and the split's name.")
    return tuple(items)


def plan_class_folders(path: str | Path, *, templates: Sequence[str]) -> tuple[PackItem, ...]:
    """One folder per class, named like the class; its number is its rank among the sorted names.

    Args:
        path: directory of the class folders.
        templates: captions with `{}` in the class name's place, such as "a photo of a {}.".

    Raises:
        SpecError: a template without `{}`, or none.
        MissingError: no folders, or a folder without images.
    """
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise SpecError("Every template needs one {} for the class name.", hint='Write --template "a photo of a {}."')
    directory = Path(path)
    folders = sorted(entry for entry in _listed(directory) if entry.is_dir())
    if not folders:
        raise MissingError(f"{directory} has no class folders.", hint="Put the images of each class into a folder.")
    items = []
    for number, folder in enumerate(folders):
        images = sorted(entry for entry in _listed(folder) if entry.suffix[1:].lower() in IMAGE_SUFFIXES)
        if not images:
            raise MissingError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        captions = tuple(template.replace("{}", folder.name.replace("_", " ")) for template in templates)
        items += [PackItem(image, captions, number, folder.name) for image in images]
    return tuple(items)


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{directory} is not a directory.") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{directory} may not be read.") from error


def _rows(table: Path, separator: str | None) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Line number and cells of every row."""
    kind = table.suffix.lower()
    if kind not in (*_DELIMITERS, ".jsonl"):
        raise SpecError(f"{table}: unknown kind of table.", hint="Give a .csv, .tsv or .jsonl file.")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if kind == ".jsonl":
                yield from _json_rows(table, file)
            else:
                yield from _csv_rows(table, file, separator or _DELIMITERS[kind])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(f"{table} does not exist.") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{table} may not be read.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{table} is not UTF-8 text.") from error


def _json_rows(table: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SpecError(f"{table}:{number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise SpecError(f"{table}:{number}: not a JSON object.")
        yield number, row


def _csv_rows(table: Path, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SpecError(f"{table}:{reader.line_num}: the row has another number of cells than the header.")
            yield reader.line_num, row
    except csv.Error as error:
        raise SpecError(f"{table}:{reader.reader.line_num}: {error}.") from error


def _image(base: Path, cell: object, column: str, where: str) -> Path:
    if not isinstance(cell, str) or not cell:
        raise SpecError(f"{where}: no image in column {column!r}.", hint="Name the column with --image-column.")
    image = base / cell
    if image.suffix[1:].lower() not in IMAGE_SUFFIXES:
        raise SpecError(f"{where}: {cell} is not one of {', '.join(IMAGE_SUFFIXES)}.")
    if not image.is_file():
        raise MissingError(f"{where}: the image {image} does not exist.")
    return image


def _texts(row: Mapping[str, object], column: str, where: str) -> list[str]:
    if column not in row:
        raise SpecError(f"{where}: no column {column!r}.", hint="Name the column with --caption-column.")
    cell = row[column]
    values = cell if isinstance(cell, list) else [cell]
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not texts:
        raise SpecError(f"{where}: no caption in column {column!r}.")
    return texts


def _class_number(cell: object, column: str, where: str) -> int | None:
    if cell is None or cell == "":
        return None
    text = str(cell)
    if not (text.isascii() and text.isdigit()):
        raise SpecError(f"{where}: {column} {text!r} is not a class number.")
    return int(text)
