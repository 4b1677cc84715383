"""Which columns of a table say what, and how a row becomes an item."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from clip_trainer.data.pack.item import PackItem
from clip_trainer.data.shards.grouping import IMAGE_SUFFIXES
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import SpecError

_JSON_MEMBER = frozenset({"caption", "captions", "width", "height", "original_width", "original_height"})


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns. The class columns are optional; several caption columns add up.

    Attributes:
        split: keep only rows whose `split_column` says this; None keeps all rows.
        root: directory that image paths are relative to; None means the table's.
        metadata: further columns to keep in the `json` member.
    """

    image: str = "image"
    captions: tuple[str, ...] = ("caption",)
    cls: str = "cls"
    class_name: str = "class_name"
    split: str | None = None
    split_column: str = "split"
    root: Path | None = None
    metadata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if taken := sorted(set(self.metadata) & _JSON_MEMBER):
            raise SpecError(
                f"--keep-metadata {taken[0]}: the json member uses that name itself.",
                hint="Captions and sizes are written anyway.",
            )

    def wanted(self, row: Mapping[str, Any]) -> bool:
        """Whether a row belongs to the split that is to be packed."""
        return self.split is None or str(row.get(self.split_column) or "") == self.split

    def item(self, row: Mapping[str, Any], where: str, base: Path) -> PackItem:
        """The item a row describes.

        Args:
            row: cells by column: text, or lists, bytes and structures where the table has types.
            where: how errors call the row.
            base: directory of the table.

        Raises:
            Unpackable: no image, no caption, or no valid class.
        """
        name = row.get(self.class_name)
        return PackItem(
            image=self._image(row.get(self.image), where, self.root or base),
            captions=tuple(text for column in self.captions for text in _texts(row, column, where)),
            cls=_class_number(row.get(self.cls), self.cls, where),
            class_name=str(name) if name else None,
            metadata={column: _plain(row.get(column)) for column in self.metadata},
            where=where,
        )

    def identity(self, base: Path) -> str:
        """Digest of what of this decides the items."""
        root = os.path.abspath(self.root or base)
        return xxhash.xxh3_128_hexdigest(repr((replace(self, root=None), root)).encode("utf-8", "surrogateescape"))

    def _image(self, cell: Any, where: str, base: Path) -> str | bytes:
        if isinstance(cell, Mapping):  # Hugging Face's images: {"bytes": ..., "path": ...}
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes) and cell:
            return cell
        if not isinstance(cell, str) or not cell:
            problem = f"{where}: no image in column {self.image!r}."
            raise Unpackable("no image", where, SpecError(problem, hint="Name the column with --image-column."))
        return image_path(cell, where, base)


def image_path(cell: str, where: str, base: Path) -> str:
    """The file a cell names: below `base`, or absolute. Symbolic links are followed: they are the user's own.

    Raises:
        Unpackable: a URL, a relative path that leaves `base`, or no image by its name.
    """
    if "://" in cell:
        hint = "Pack downloaded files; `clipctl data gather` downloads them."
        raise Unpackable("image is a URL", where, SpecError(f"{where}: {cell} is a URL.", hint=hint))
    if ".." in cell and not os.path.isabs(cell) and os.path.normpath(cell).split(os.sep)[0] == os.pardir:
        error = SpecError(f"{where}: {cell} leads out of {base}.", hint="Set --root, or give an absolute path.")
        raise Unpackable("path leads out of the root", where, error)
    if "\0" in cell or cell.rpartition(".")[2].lower() not in IMAGE_SUFFIXES:
        error = SpecError(f"{where}: {cell} is not one of {', '.join(IMAGE_SUFFIXES)}.")
        raise Unpackable("not an image by its name", where, error)
    return os.path.join(base, cell)


def _texts(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    cell = row.get(column)
    values = cell if isinstance(cell, list) else [cell]
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not texts:
        error = SpecError(f"{where}: no caption in column {column!r}.", hint="Name the column with --caption-column.")
        raise Unpackable("no caption", where, error)
    return texts


def _class_number(cell: Any, column: str, where: str) -> int | None:
    if cell is None or cell == "":
        return None
    text = str(cell)
    if not (text.isascii() and text.isdigit()):
        raise Unpackable("no class number", where, SpecError(f"{where}: {column} {text!r} is not a class number."))
    return int(text)


def _plain(value: Any) -> Any:
    """A cell as JSON knows it: dates and decimals as text, NaN as null."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)
