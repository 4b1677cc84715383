"""Small datasets for tests: tars by Python's own writer, images that carry their number in their pixels."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Members = Sequence[tuple[str, bytes]]


def tar_bytes(members: Members, format: int = tarfile.USTAR_FORMAT) -> bytes:  # noqa: A002 - tarfile's own word
    """A tar of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def png(number: int, size: int = 8) -> bytes:
    """A PNG whose every pixel is (number // 256, number % 256, 77), so that a decoded image tells who it is."""
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = (number // 256, number % 256, 77)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(image: np.ndarray) -> int:
    """The number `png` painted, from pixels [h, w, 3]."""
    return int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])


def sample_members(
    number: int, *, captions: Sequence[str] | None = None, cls: int | None = None
) -> list[tuple[str, bytes]]:
    """The members of sample `number`."""
    captions = captions or [f"picture {number}"]
    members = [(f"{number:06d}.png", png(number)), (f"{number:06d}.txt", captions[0].encode())]
    if len(captions) > 1:
        members.append((f"{number:06d}.json", json.dumps({"captions": list(captions)}).encode()))
    if cls is not None:
        members.append((f"{number:06d}.cls", str(cls).encode()))
    return members


def write_dataset(directory: Path, counts: Iterable[int]) -> int:
    """Shards `shard-000000.tar` ... with these numbers of samples, numbered through; returns the total."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        members = [member for i in range(number, number + count) for member in sample_members(i)]
        (directory / f"shard-{shard:06d}.tar").write_bytes(tar_bytes(members))
        number += count
    return number


def read_shards(directory: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Key and members of every sample below a directory, in order, as Python's own reader sees them."""
    samples: list[tuple[str, dict[str, bytes]]] = []
    for path in sorted(directory.glob("*.tar")):
        first = len(samples)
        with tarfile.open(path) as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if len(samples) == first or samples[-1][0] != key:
                    samples.append((key, {}))
                content = tar.extractfile(member)
                assert content is not None
                samples[-1][1][suffix] = content.read()
    return samples
