"""Data for the benchmarks: JPEGs with the spectrum of photographs, captions with the word frequencies of text.

Random pixels would decode several times slower than photographs, and flat ones faster: the amplitude of natural images
falls with the frequency (Field, 1987), and so do those made here, with a few hard edges on top.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_COMMON = """
    a the of and in with on for photo photograph picture image dog cat red blue green house beach sunset portrait
    vintage wooden table flowers garden black white modern design poster print art car street city woman man child
    playing football mountain lake illustration vector background isolated handmade leather bag shoes summer dress
    wedding cake recipe chocolate cheese pizza kitchen interior living room sofa lamp new old large small free stock
"""
_RARE = "ka lo mi ren ta vo shi per dan gu el or win ba st cho ne fi ar lu"
WORDS, SYLLABLES = _COMMON.split(), _RARE.split()
_EXTRAS = (" - Photo #{}", " | Café {}", " &amp; {} more", ' "{}"', " ({})", "… №{}")


def photo(rng: np.random.Generator, height: int, width: int) -> bytes:
    """A JPEG of quality 90 with 4:2:0 colours; 500 x 400 pixels take about 60 kB."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = rng.standard_normal((3, height, width // 2 + 1)) + 1j * rng.standard_normal((3, height, width // 2 + 1))
    planes = np.fft.irfft2(spectrum / frequency**1.45, s=(height, width))
    planes = (planes - planes.mean((1, 2), keepdims=True)) / planes.std((1, 2), keepdims=True)
    pixels: npt.NDArray[np.float64] = np.stack([0.8 * planes[0] + 0.25 * plane for plane in planes], -1) * 48 + 120
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        left, top = (int(rng.integers(0, side - 40)) for side in (width, height))
        box = (left, top, left + int(rng.integers(20, 160)), top + int(rng.integers(20, 160)))
        draw.ellipse(box, outline=tuple(int(level) for level in rng.integers(0, 255, 3)), width=3)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def caption(rng: np.random.Generator) -> str:
    """About ten words, most of them common, some never seen before; a third has what web captions have besides."""
    count = int(np.clip(rng.lognormal(2.25, 0.45), 3, 40))
    words = []
    for _ in range(count):
        rank = int(rng.zipf(1.3))
        if rank <= len(WORDS):
            word = WORDS[rank - 1]
        else:
            word = "".join(SYLLABLES[int(index)] for index in np.random.default_rng(rank).integers(0, 20, 3))
        words.append(word.capitalize() if rng.random() < 0.3 else word)
    text = " ".join(words)
    if rng.random() < 0.35:
        text += str(rng.choice(_EXTRAS)).format(int(rng.integers(1, 3000)))
    return text


def write_shards(directory: Path, *, shards: int, samples: int, width: int, unique: int) -> None:
    """Shards of photos with captions, and a small `.json` beside each as img2dataset writes it.

    Args:
        directory: created; left alone if it holds these shards already.
        shards: number of tars.
        samples: in each.
        width: of the photos, pixels, varied by 12 %; the height is about four fifths of it.
        unique: different photos; they repeat, captions do not.
    """
    done = directory / f"{shards}x{samples}-{width}-{unique}"
    if done.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sizes = [(int(width * 0.8 * rng.uniform(0.85, 1.15)), int(width * rng.uniform(0.88, 1.12))) for _ in range(unique)]
    photos = [photo(rng, height, wide) for height, wide in sizes]
    for shard in range(shards):
        with tarfile.open(directory / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(samples):
                picture = photos[(shard * samples + index) % unique]
                members = (("jpg", picture), ("txt", caption(rng).encode()), ("json", b'{"width":500,"height":400}'))
                for suffix, data in members:
                    header = tarfile.TarInfo(f"{shard:05d}{index:05d}.{suffix}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
    done.touch()
