"""An image on its way into a shard: read, checked by its header, made smaller if that is asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from clip_trainer.data.shards.grouping import IMAGE_SUFFIXES
from clip_trainer.data.shards.image_header import read_header
from clip_trainer.data.writing.image_resize import Resize, Undecodable
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import ClipError, CorruptError, MissingError, PermissionDeniedError

Size = tuple[int, int]
"""Width and height in pixels."""


class StoredImage(NamedTuple):
    """An image as it will be stored."""

    suffix: str
    data: bytes
    size: Size
    original: Size


def stored_image(data: bytes, suffix: str, resize: Resize | None, where: str) -> StoredImage:
    """What is stored of an image: the file itself, byte for byte, or a smaller JPEG.

    Args:
        data: the image file.
        suffix: what its name says it is; empty if it has no name.
        resize: how to make it smaller; images that are small enough are stored as they are.
        where: how errors call it.

    Raises:
        Unpackable: no image, or one that cannot be decoded where that is needed.
    """
    header = read_header(data)
    suffix = suffix if suffix in IMAGE_SUFFIXES else header.kind if header else ""
    storable = header is not None and suffix in IMAGE_SUFFIXES
    if header is not None and storable and not (resize and resize.shrinks(header.width, header.height)):
        size = (header.width, header.height)
        return StoredImage(suffix, data, size, size)
    if resize is None:
        raise _unusable("not an image" if header is None else f"{header.kind} image", where)
    try:
        smaller, size, original = resize.apply(data)
    except Undecodable as error:
        raise _unusable(str(error), where) from error
    return StoredImage("jpg", smaller, size, original)


def read_image(path: str, where: str) -> bytes:
    """An image file's content. Raises Unpackable if it is no regular file or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise IsADirectoryError
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Unpackable("missing image", where, _named(MissingError, where, path, "does not exist")) from error
    except OSError as error:
        problem = _named(PermissionDeniedError, where, path, f"cannot be read: {error.strerror}")
        raise Unpackable("unreadable image", where, problem) from error


def _named(kind: type[ClipError], where: str, path: str, problem: str) -> ClipError:
    prefix = "" if where in ("", path) else f"{where}: "
    return kind(f"{prefix}the image {path} {problem}.", hint="Use --on-error skip to leave such rows out.")


def _unusable(reason: str, where: str) -> Unpackable:
    hint = "Use --on-error skip to leave such images out."
    if reason.endswith(" image") and not reason.startswith("not"):
        hint = "Use --resize, which writes JPEGs, or --on-error skip."
    return Unpackable(reason, where, CorruptError(f"{where}: unusable image ({reason}).", hint=hint))
