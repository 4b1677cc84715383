"""Writing shards: `clipctl data pack`.

The shards are what webdataset writes and reads. Each sample has `<key>.<image suffix>`, `<key>.txt` with the first
caption, `<key>.json` with `{"captions": [...]}` if there are several, and `<key>.cls` if it has a class; the key is
its number in shuffled order. The same input and seed give the same bytes: owners and times are left out.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64_intdigest

from clip_trainer.data.index import build_index
from clip_trainer.data.location import INDEX_NAME, parse_location
from clip_trainer.data.pack_plan import PackItem
from clip_trainer.data.progress import Progress, ProgressEvent
from clip_trainer.data.source import Source, open_source
from clipctl.contract.errors import CannotCreateError, MissingError, PermissionDeniedError, SpecError

CLASSES_NAME = "classes.json"


@dataclass(frozen=True)
class PackSummary:
    """What was written."""

    out: str
    shards: int
    samples: int
    bytes: int
    index_digest: str
    classes: tuple[str, ...]  # names by class number; empty without classes


def pack(
    items: Sequence[PackItem],
    out: str,
    *,
    samples_per_shard: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> PackSummary:
    """Write shards `shard-000000.tar` ..., their index, and `classes.json` if classes have names.

    Args:
        items: what to pack, see `pack_plan`.
        out: directory or URL; must not hold shards yet.
        samples_per_shard: samples of every shard but the last.
        seed: of the shuffle, so that a shard is a random part of the dataset.
        progress: told after every shard.

    Raises:
        MissingError: nothing to pack, or an image is gone.
        SpecError: `out` is not a directory location, or class numbers and names disagree.
        CannotCreateError: `out` holds shards already, or cannot be written.
    """
    location = parse_location(out)
    if location.names is not None or samples_per_shard < 1:
        raise SpecError(f"Cannot pack into {out} with {samples_per_shard} samples a shard.", hint="Give a directory.")
    if not items:
        raise MissingError("There is nothing to pack.")
    classes = _class_names(items)
    sink = open_source(location)
    _refuse_existing(sink, out)
    names = _write_shards(sink, _shuffled(items, seed), samples_per_shard, progress)
    if classes:
        sink.save(CLASSES_NAME, json.dumps(classes, ensure_ascii=False, indent=1).encode() + b"\n")
    index = build_index(sink, names)
    sink.save(INDEX_NAME, index.to_json())
    return PackSummary(out, len(names), index.samples, index.total_bytes, index.digest, tuple(classes))


def _shuffled(items: Sequence[PackItem], seed: int) -> list[PackItem]:
    """Items in the order of their keyed hashes: unlike `random.shuffle`, the same in every version of Python."""
    return [
        items[number] for number in sorted(range(len(items)), key=lambda n: xxh3_64_intdigest(f"{seed}:{n}".encode()))
    ]


def _write_shards(sink: Source, items: list[PackItem], size: int, progress: Progress | None) -> list[str]:
    names = []
    written = 0
    for first in range(0, len(items), size):
        payload = _shard(items[first : first + size], first)
        names.append(f"shard-{first // size:06d}.tar")
        sink.save(names[-1], payload)
        written += len(payload)
        if progress is not None:
            progress(ProgressEvent("pack", min(first + size, len(items)), len(items), written, names[-1]))
    return names


def _shard(items: Sequence[PackItem], first: int) -> bytes:
    """One shard as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(items, start=first):
            for suffix, data in _members(item):
                # TarInfo starts with owner 0, mode 0644 and time 0: nothing of this machine gets in.
                header = tarfile.TarInfo(f"{number:09d}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def _members(item: PackItem) -> list[tuple[str, bytes]]:
    try:
        image = item.image.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"The image {item.image} does not exist.") from error
    except OSError as error:
        raise PermissionDeniedError(f"The image {item.image} cannot be read: {error.strerror}.") from error
    members = [(item.image.suffix[1:].lower(), image), ("txt", item.captions[0].encode())]
    if len(item.captions) > 1:
        content = {"captions": list(item.captions)}
        members.append(("json", json.dumps(content, ensure_ascii=False).encode()))
    if item.cls is not None:
        members.append(("cls", str(item.cls).encode()))
    return members


def _class_names(items: Sequence[PackItem]) -> list[str]:
    """Names by class number; empty if no item names its class."""
    named: dict[int, str] = {}
    for item in items:
        if item.cls is None or item.class_name is None:
            continue
        if named.setdefault(item.cls, item.class_name) != item.class_name:
            raise SpecError(f"Class {item.cls} has two names: {named[item.cls]!r} and {item.class_name!r}.")
    if not named:
        return []
    if set(named) != set(range(len(named))):
        raise SpecError("Class numbers must be 0, 1, 2, ... without a gap.")
    return [named[number] for number in range(len(named))]


def _refuse_existing(sink: Source, out: str) -> None:
    try:
        existing = sink.list_shards()
    except MissingError:
        return
    if existing:
        raise CannotCreateError(
            f"{out} holds {len(existing)} shards already.", hint="Choose another directory or delete them first."
        )


def read_class_names(directory: str | Path) -> tuple[str, ...]:
    """Names of the classes of a packed dataset, by class number.

    Raises:
        MissingError: the dataset has no `classes.json`.
    """
    payload = open_source(parse_location(str(directory))).load(CLASSES_NAME)
    return tuple(str(name) for name in json.loads(payload))
