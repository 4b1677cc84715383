"""Fetch emoji pictures with their names and write them as pictures with captions, ready for `clipctl data pack`.

The pictures are Google's Noto emoji (Apache License 2.0), the names Unicode's, both from the npm package
`emoji-datasource-google` (code MIT), fetched by name in a pinned version by npm, which checks its integrity; the
digest is checked again here. Nothing of it belongs into version control: choose OUT outside the tree.

About 3,800 pairs: 1,900 emoji and the skin tones of people. A tenth is held out for retrieval, chosen by a hash of
the code points. Many held-out people occur in training with another skin tone, so retrieval measures how names and
tones combine; the other held-out emoji are things training has not seen.

    python scripts/make_emoji.py OUT
    clipctl data pack OUT/manifest.jsonl OUT/train --split train
    clipctl data pack OUT/manifest.jsonl OUT/val --split val
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from xxhash import xxh3_64_intdigest

PACKAGE = "emoji-datasource-google"
VERSION = "16.0.0"
INTEGRITY = "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
LICENCE = (
    "Pictures: Noto emoji, (c) Google, Apache License 2.0. Names and table: emoji-data, (c) Cal Henderson, MIT License."
)
TABLE = "package/emoji.json"
PICTURES = "package/img/google/64/"
HELD_OUT_PERCENT = 10
TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}


class Emoji(NamedTuple):
    """One picture and its names."""

    image: str  # file name
    name: str
    short_names: tuple[str, ...]
    group: str
    tone: str  # empty for most


def main() -> None:
    """Write `OUT/images/*.png` and `OUT/manifest.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to write, outside the repository")
    out = parser.parse_args().out
    (out / "images").mkdir(parents=True, exist_ok=True)
    files = wanted_files(fetch(out))
    rows = []
    for emoji in distinct(read_table(files[TABLE])):
        write_picture(files[PICTURES + emoji.image], out / "images" / Path(emoji.image).name)
        rows.append(row_of(emoji))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "manifest.jsonl").write_text(text, encoding="utf-8")
    held_out = sum(row["split"] == "val" for row in rows)
    print(f"{len(rows) - held_out} training and {held_out} held-out pairs in {out}")
    print(LICENCE)


def fetch(out: Path) -> Path:
    """The package as npm's archive, downloaded once."""
    archive = out / f"{PACKAGE}-{VERSION}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("make_emoji: npm is not on PATH; install Node.js (Debian: apt-get install npm).")
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts", "--pack-destination", str(out)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            sys.exit(f"make_emoji: npm could not fetch {PACKAGE}@{VERSION}; check the network and npm's registry.")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        archive.unlink()
        sys.exit(f"make_emoji: {archive} was damaged and is deleted; run this again.")
    return archive


def wanted_files(archive: Path) -> dict[str, bytes]:
    """The table and the pictures by name, in one pass; nothing is extracted to paths the archive chooses."""
    with tarfile.open(archive) as package:
        wanted = (member for member in package if member.name == TABLE or member.name.startswith(PICTURES))
        return {member.name: file.read() for member in wanted if (file := package.extractfile(member))}


def read_table(table: bytes) -> Iterator[Emoji]:
    """Every emoji that has a picture, and its skin tones after it."""
    for entry in json.loads(table):
        names = tuple(plain(name) for name in entry["short_names"])
        base = Emoji(entry["image"], plain(entry["name"]), names, plain(entry["subcategory"]), "")
        if entry["has_img_google"]:
            yield base
        for tones, variation in entry.get("skin_variations", {}).items():
            if variation["has_img_google"]:
                tone = " and ".join(TONES[code] for code in dict.fromkeys(tones.split("-")))
                yield base._replace(image=variation["image"], tone=tone)


def distinct(emojis: Iterator[Emoji]) -> Iterator[Emoji]:
    """Leave out what has the full name of an earlier one: retrieval could not tell them apart."""
    seen: set[str] = set()
    for emoji in emojis:
        if full_name(emoji) not in seen:
            seen.add(full_name(emoji))
            yield emoji


def row_of(emoji: Emoji) -> dict[str, Any]:
    """The manifest's row: the full name first, then other ways to say it."""
    said = [full_name(emoji)]
    said += [f"an emoji of {with_tone(name, emoji.tone)}" for name in emoji.short_names]
    said.append(f"a picture of {with_tone(emoji.name, emoji.tone)}, from the group {emoji.group}")
    held_out = xxh3_64_intdigest(f"emoji:{emoji.image}".encode()) % 100 < HELD_OUT_PERCENT
    return {
        "image": f"images/{emoji.image}",
        "caption": list(dict.fromkeys(said)),
        "split": "val" if held_out else "train",
    }


def full_name(emoji: Emoji) -> str:
    """The caption that names an emoji uniquely."""
    return with_tone(emoji.name, emoji.tone)


def with_tone(name: str, tone: str) -> str:
    """A name with its skin tone, if it has one."""
    return f"{name}, {tone}" if tone else name


def plain(name: str) -> str:
    """Lower case with spaces for underscores and hyphens: `flag-jo` becomes `flag jo`."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def write_picture(data: bytes, path: Path) -> None:
    """Write one picture on a white ground: without it, what is transparent would turn black."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    Image.alpha_composite(ground, picture).convert("RGB").save(path)


if __name__ == "__main__":
    main()
