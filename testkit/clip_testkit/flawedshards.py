"""A small data set with flaws of known kinds and numbers, as crawled data sets have them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from clip_testkit.pictures import picture
from clip_testkit.shards import tar_bytes

GOOD = 40
"""Samples that can be used, the flaws of `TOLERATED` among them."""
UNUSABLE = {"not an image": 3, "too many pixels: NxN": 1, "no image": 2, "no caption": 2, "empty caption": 1}
"""Samples that cannot be used, by reason. Truncated files are made too, see `TRUNCATED`."""
TRUNCATED = 2
"""Samples whose image ends too early (their reason is what the decoder says)."""
SAMPLES = GOOD + sum(UNUSABLE.values()) + TRUNCATED

LONG_CAPTION = " ".join(["antidisestablishmentarianism"] * 30)
_CAPTIONS = (
    "a grey cat on a red sofa",
    "два кота на диване",
    "赤い電車が駅に止まっている",
    "Ein Haus am See – im Winter",
)


def write_flawed(directory: Path, per_shard: int = 17) -> None:
    """Write the shards. Every flaw has its own key prefix, as in `truncated-0`."""
    directory.mkdir(parents=True, exist_ok=True)
    samples = [*_good(), *_bad()]
    for first in range(0, len(samples), per_shard):
        members = [member for sample in samples[first : first + per_shard] for member in sample]
        (directory / f"shard-{first // per_shard:06d}.tar").write_bytes(tar_bytes(members))


def _good() -> Iterator[list[tuple[str, bytes]]]:
    for number in range(GOOD):
        key = f"good-{number:03d}"
        # Number 7 shows the same picture as number 3; number 11 was turned by its camera.
        image = _encoded(3 if number == 7 else number, "PNG" if number % 5 == 0 else "JPEG", turned=number == 11)
        suffix = "png" if number % 5 == 0 else "jpg"
        caption = LONG_CAPTION if number in (20, 21) else f"{_CAPTIONS[number % 4]} {number}"
        about = {"caption": caption, "LANGUAGE": "de" if number % 4 == 3 else "en", "number": number}
        members = [(f"{key}.{suffix}", image), (f"{key}.txt", caption.encode())]
        yield [*members, (f"{key}.json", json.dumps(about).encode())] if number % 2 else members


def _bad() -> Iterator[list[tuple[str, bytes]]]:
    image, caption = _encoded(1000, "JPEG"), b"a caption"
    for number in range(UNUSABLE["not an image"]):
        page = b"<html>404 not found</html>"
        yield [(f"html-{number}.jpg", page), (f"html-{number}.txt", caption)]
    for number in range(UNUSABLE["too many pixels: NxN"]):
        yield [(f"bomb-{number}.png", _one_colour(8001, 8000)), (f"bomb-{number}.txt", caption)]
    for number in range(UNUSABLE["no image"]):
        yield [(f"imageless-{number}.txt", caption)]
    for number in range(UNUSABLE["no caption"]):
        yield [(f"speechless-{number}.jpg", image + bytes(number))]
    for number in range(UNUSABLE["empty caption"]):
        yield [(f"blank-{number}.jpg", image + b"blank"), (f"blank-{number}.txt", b" \n")]
    for number in range(TRUNCATED):
        yield [(f"truncated-{number}.png", _encoded(number, "PNG")[:-900]), (f"truncated-{number}.txt", caption)]


def _encoded(seed: int, kind: str, *, turned: bool = False) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    picture(48 + seed % 7 * 16, 64 + seed % 3 * 80, seed=seed).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def _one_colour(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()
