"""Folders of images: one folder per class, or captions in files beside the images.

Of every image only its path is held, in one long string of bytes, because ten million `Path` objects take gigabytes.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.item import PackItem
from clip_trainer.data.shards.grouping import IMAGE_SUFFIXES
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError

_SIDECARS = (".txt", ".json")


class ClassFolders:
    """One folder per class, named like the class; its number is its rank among the sorted names.

    Implements `PackSource`. Images may lie deeper inside a class folder.

    Args:
        path: directory of the class folders.
        templates: captions with `{}` in the class name's place, such as "a photo of a {}.".

    Raises:
        SpecError: a template without `{}`, or none.
        MissingError: no folders, or a folder without images.
    """

    def __init__(self, path: Path, *, templates: Sequence[str]) -> None:
        if not templates or any(template.count("{}") != 1 for template in templates):
            hint = 'Write --template "a photo of a {}."'
            raise SpecError("Every template needs one {} for the class name.", hint=hint)
        self._path, self._templates = path, tuple(templates)
        self.classes = tuple(entry.name for entry in _sorted_entries(path) if entry.is_dir())
        if not self.classes:
            raise MissingError(f"{path} has no class folders.", hint="Put the images of each class into a folder.")
        self._paths, self._numbers = _Paths(path), array("I")
        for number, name in enumerate(self.classes):
            self._paths.extend(walk_images(path / name))
            added = len(self._paths) - len(self._numbers)
            if not added:
                raise MissingError(f"{path / name} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
            self._numbers.extend([number] * added)
        self.identity = f"{self._paths.digest()}-{xxhash.xxh3_128_hexdigest(repr(self._templates).encode())}"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> PackItem:
        """An image with its class's captions."""
        image, cls = self._paths[number], self._numbers[number]
        name = self.classes[cls]
        captions = tuple(template.replace("{}", name.replace("_", " ")) for template in self._templates)
        return PackItem(str(image), captions, cls, name, where=str(image))


class CaptionedFolder:
    """Images with their captions beside them: `x.txt`, or `x.json` with an object, for `x.jpg`.

    An object's captions are those of the caption columns (of a column `captions`, too); the other columns are as in a
    table. With both files the object's captions count, as in a shard. Implements `PackSource`.

    Raises:
        MissingError: there are no images.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        self._paths = _Paths(path)
        self._paths.extend(walk_images(path))
        if not len(self._paths):
            raise MissingError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        self.classes: tuple[str, ...] = ()
        self.identity = f"{self._paths.digest()}-{columns.identity(path)}"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> PackItem:
        """An image with what the files beside it say."""
        image = self._paths[number]
        row = _sidecar_object(image)
        caption = self._columns.captions[0]
        if "captions" in row and not any(row.get(column) for column in self._columns.captions):
            row[caption] = row["captions"]
        if not row.get(caption):
            row[caption] = _sidecar_text(image)
        item = self._columns.item({**row, self._columns.image: image.name}, str(image), image.parent)
        return item


def has_sidecars(path: Path) -> bool:
    """Whether the first image of a folder has a caption file beside it."""
    first = next(walk_images(path), None)
    return first is not None and any(first.with_suffix(suffix).is_file() for suffix in _SIDECARS)


def walk_images(path: Path) -> Iterator[Path]:
    """Images below a directory, folder by folder in sorted order; hidden files and folders do not count.

    Symbolic links are followed, but no folder is entered twice.
    """
    pending, seen = [path], set[tuple[int, int]]()
    while pending:
        folder = pending.pop()
        entries = _sorted_entries(folder)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (folder / e.name for e in entries if _suffix(e.name) in IMAGE_SUFFIXES and e.is_file())
        pending += [folder / entry.name for entry in reversed(entries) if entry.is_dir()]


class _Paths:
    """Paths below a directory, packed into one string of bytes."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._text = bytearray()
        self._ends = array("Q")

    def extend(self, paths: Iterator[Path]) -> None:
        for path in paths:
            self._text += os.fsencode(path.relative_to(self._base))
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Path:
        start = self._ends[number - 1] if number else 0
        return self._base / os.fsdecode(bytes(self._text[start : self._ends[number]]))

    def digest(self) -> str:
        """Of all paths, and of where they start from."""
        content = xxhash.xxh3_128(os.fsencode(os.path.abspath(self._base)))
        content.update(self._ends.tobytes())
        content.update(bytes(self._text))
        return content.hexdigest()


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{folder} is not a directory.") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{folder} may not be read.") from error


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _sidecar_object(image: Path) -> dict[str, Any]:
    path = image.with_suffix(".json")
    text = _read_text(path)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unpackable("damaged caption file", str(path), SpecError(f"{path} is not JSON ({error}).")) from error
    if not isinstance(content, dict):
        raise Unpackable("damaged caption file", str(path), SpecError(f"{path} is not a JSON object."))
    return content


def _sidecar_text(image: Path) -> str | None:
    return _read_text(image.with_suffix(".txt"))


def _read_text(path: Path) -> str | None:
    """A caption file's text; None if there is no such file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Unpackable("damaged caption file", str(path), SpecError(f"{path} is not UTF-8 text.")) from error
    except OSError as error:
        problem = PermissionDeniedError(f"{path} cannot be read: {error.strerror}.")
        raise Unpackable("unreadable caption file", str(path), problem) from error
