"""Shards whose members are named in every way that grouping has to get right."""

from __future__ import annotations

import io
import random
import tarfile

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

_KEYS = ("{}", "d/{}", "d.x/{}", "./{}", "../{}", "a/b/c/{}", "k" * 90 + "{}", "long/" * 20 + "k" * 60 + "{}")
_UNICODE = ("grüße-{}", "目录/{}")
_SUFFIXES = ("jpg", "JPG", "png", "txt", "TXT", "seg.png", "json", "cls", "pkl", "tar.gz", "")
_NO_SAMPLE = ("README", "__meta__", "__index__/x.txt", ".hidden", ".hidden.png", "d.x/.hidden.jpg", "d/README")


def odd_shard(seed: int, kind: str, *, duplicates: bool) -> bytes:
    """A shard of about thirty samples, drawn by `seed`.

    Args:
        seed: of the names, contents and their order.
        kind: a key of `FORMATS`; decides how long and foreign names are written.
        duplicates: whether suffixes may come again within a key, and keys apart from each other.
    """
    draw = random.Random(f"{seed} {kind} {duplicates}")
    patterns = _KEYS if kind == "ustar" else _KEYS + _UNICODE
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[kind]) as tar:
        _add(tar, "first.png", b"a shard needs an image")
        for number in range(30):
            key = draw.choice(patterns).format(draw.randrange(6) if duplicates else number)
            suffixes = list({suffix.lower(): suffix for suffix in draw.sample(_SUFFIXES, draw.randint(1, 5))}.values())
            if duplicates and draw.random() < 0.4:
                suffixes.insert(draw.randrange(len(suffixes) + 1), draw.choice(suffixes))
            for suffix in suffixes:
                _add(tar, f"{key}.{suffix}", draw.randbytes(draw.choice([0, 3, 512, 700])))
                if draw.random() < 0.2:
                    _add_other(tar, draw)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def _add_other(tar: tarfile.TarFile, draw: random.Random) -> None:
    """Something that belongs to no sample, between the members of one."""
    kind = draw.choice([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    if kind == tarfile.REGTYPE:
        _add(tar, draw.choice(_NO_SAMPLE), b"passed over")
        return
    header = tarfile.TarInfo("other.png")
    header.type, header.linkname = kind, "first.png"
    tar.addfile(header)
