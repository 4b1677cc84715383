"""Writing shards: `clipctl data pack`.

The shards are what webdataset writes and reads. Each sample has `<key>.<image suffix>`, `<key>.txt` with the first
caption, and `<key>.cls` if it has a class; the key is its number in shuffled order. `<key>.json` is written if there is
more to say: `captions` if there are several, kept columns, and with either kept columns or `--resize` the sizes
`width`, `height`, `original_width` and `original_height`. The same input and options give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_trainer.data.pack.item import PackItem, PackSource
from clip_trainer.data.progress import Progress
from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.storage.source import open_source
from clip_trainer.data.writing.image import StoredImage, read_image, stored_image
from clip_trainer.data.writing.image_resize import Resize, prepare_pillow
from clip_trainer.data.writing.shard_order import shuffled
from clip_trainer.data.writing.shard_producer import NewSample, Outcome, Unpackable
from clip_trainer.data.writing.shard_set import WriteSummary, write_set
from clip_trainer.data.writing.shard_writer import WriteOptions

CLASSES_NAME = "classes.json"


@dataclass(frozen=True)
class PackSummary(WriteSummary):
    """What was written."""

    classes: tuple[str, ...]  # names by class number; empty without classes


def pack(
    items: PackSource,
    out: str,
    options: WriteOptions | None = None,
    *,
    seed: int = 0,
    resize: Resize | None = None,
    progress: Progress | None = None,
) -> PackSummary:
    """Write shards `shard-000000.tar` ..., their index, and `classes.json` if classes have names.

    Args:
        items: what to pack, see `input`.
        out: directory or URL; must not hold other shards yet. A pack that was interrupted goes on where it was.
        options: how to cut the shards, by how many threads.
        seed: of the shuffle, so that a shard is a random part of the dataset.
        resize: how to make images smaller; None stores all as they are.
        progress: told how many samples are done.

    Raises:
        MissingError: nothing to pack, or an image is gone.
        SpecError: `out` is not a directory location, or Pillow is needed and not installed.
        CannotCreateError: `out` holds other shards already, or cannot be written.
        CorruptError: an image is none.
    """
    if resize is not None:
        prepare_pillow()
    beside = {}
    if items.classes:
        beside[CLASSES_NAME] = json.dumps(items.classes, ensure_ascii=False, indent=1).encode() + b"\n"
    producer = _Packing(items, seed, resize)
    done = write_set(producer, out, options or WriteOptions(), beside=beside, progress=progress)
    return PackSummary(**asdict(done), classes=items.classes)


def read_class_names(directory: str | Path) -> tuple[str, ...]:
    """Names of the classes of a packed dataset, by class number.

    Raises:
        MissingError: the dataset has no `classes.json`.
    """
    payload = open_source(parse_location(str(directory))).load(CLASSES_NAME)
    return tuple(str(name) for name in json.loads(payload))


class _Packing:
    """Makes samples of items; implements `shard_producer.Producer`."""

    stage = "pack"

    def __init__(self, items: PackSource, seed: int, resize: Resize | None) -> None:
        self._items, self._resize = items, resize
        self._order = shuffled(len(items), seed)
        self.options: Mapping[str, Any] = {
            "input": items.identity,
            "samples": len(items),
            "seed": seed,
            "resize": resize and resize.options(),
        }

    def __len__(self) -> int:
        return len(self._order)

    def produce(self, positions: range) -> list[Outcome]:
        """The samples at these positions."""
        return [self._sample(position) for position in positions]

    def _sample(self, position: int) -> Outcome:
        try:
            item = self._items[self._order[position]]
            image = _image(item, self._resize)
        except Unpackable as problem:
            return problem
        members = [(image.suffix, image.data), ("txt", item.captions[0].encode("utf-8", "replace"))]
        if content := _json_member(item, image, sizes=self._resize is not None or bool(item.metadata)):
            members.append(("json", json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")))
        if item.cls is not None:
            members.append(("cls", str(item.cls).encode()))
        return NewSample(f"{position:09d}", "", tuple(members))


def _image(item: PackItem, resize: Resize | None) -> StoredImage:
    if isinstance(item.image, bytes):
        return stored_image(item.image, "", resize, item.where)
    where = item.where or item.image
    suffix = item.image.rpartition(".")[2].lower()
    return stored_image(read_image(item.image, where), suffix, resize, where)


def _json_member(item: PackItem, image: StoredImage, *, sizes: bool) -> dict[str, Any]:
    content: dict[str, Any] = dict(item.metadata)
    if len(item.captions) > 1:
        content["captions"] = list(item.captions)
    if sizes:
        content |= {"width": image.size[0], "height": image.size[1]}
        content |= {"original_width": image.original[0], "original_height": image.original[1]}
    return content
