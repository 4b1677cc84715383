"""Write scikit-learn's handwritten digits as pictures with captions, ready for `clipctl data pack`.

The 1,797 scans (8x8 pixels, Alpaydin and Kaynak, UCI ML repository, CC BY 4.0) come with scikit-learn; nothing is
downloaded. They are enlarged to 32x32. Of each digit 36 are held out (360 in all), chosen by a hash of their number,
so the split is the same everywhere.

    python scripts/make_digits.py OUT
    clipctl data pack OUT/manifest.jsonl OUT/train --split train
    clipctl data pack OUT/manifest.jsonl OUT/test --split test
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from xxhash import xxh3_64_intdigest

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of the digit {}.",
    "a handwritten {}.",
    "a scan of the number {}.",
    "the digit {} written by hand.",
    "a small grey picture of a {}.",
)
SIZE = 32  # pixels
HELD_OUT = 36  # of each digit
BRIGHTEST = 16  # of scikit-learn's pixel values


def main() -> None:
    """Write `OUT/images/*.png` and `OUT/manifest.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to write")
    out = parser.parse_args().out
    (out / "images").mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    held_out = held_out_numbers(digits.target)
    rows = list(write_pictures(out, digits.images, digits.target, held_out))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (out / "manifest.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(rows) - len(held_out)} training and {len(held_out)} held-out pictures in {out}")


def held_out_numbers(labels: np.ndarray) -> set[int]:
    """Numbers of the pictures that are held out: the same count of every digit."""
    by_digit: dict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels.tolist()):
        by_digit[label].append(number)
    chosen = (
        sorted(group, key=lambda n: xxh3_64_intdigest(b"digits:%d" % n))[:HELD_OUT] for group in by_digit.values()
    )
    return {number for group in chosen for number in group}


def write_pictures(
    out: Path, images: np.ndarray, labels: np.ndarray, held_out: set[int]
) -> Iterator[dict[str, object]]:
    """Write each scan as a PNG and yield its row of the manifest."""
    for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        grey = Image.fromarray((pixels * (255 / BRIGHTEST)).round().astype(np.uint8))
        name = f"images/{number:04d}.png"
        grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB").save(out / name)
        yield {
            "image": name,
            "caption": [template.format(NAMES[label]) for template in TEMPLATES],
            "cls": label,
            "class_name": NAMES[label],
            "split": "test" if number in held_out else "train",
        }


if __name__ == "__main__":
    main()
