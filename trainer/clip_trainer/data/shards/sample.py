"""One sample: its members' bytes, and what its captions and class are."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

from clip_trainer.data.shards.grouping import CLASS_SUFFIX, IMAGE_SUFFIXES, KNOWN_SUFFIXES, split_name
from clip_trainer.data.shards.tar import TarReader
from clip_trainer.data.shards.tar_header import BLOCK
from clipctl.contract.errors import CorruptError

MAX_CAPTION = 16_384
"""Characters of a caption that are kept: far beyond any context length, far below what would stall a tokenizer."""

_REGULAR = ord("0")


class UnusableSample(Exception):
    """A sample that cannot be shown to the model. Args: a reason of few words, for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class RawSample:
    """A sample as stored. Only members with a known suffix are kept; their bytes are never executed."""

    key: str
    members: dict[str, bytes]

    def image(self) -> bytes:
        """The encoded image. Raises UnusableSample if there is none."""
        for suffix in IMAGE_SUFFIXES:
            if suffix in self.members:
                return self.members[suffix]
        raise UnusableSample("no image")

    def captions(self) -> tuple[str, ...]:
        """All captions: the list in `json` if it has one, else `txt`; empty ones are left out.

        Raises:
            UnusableSample: there is none.
        """
        found = _json_captions(self.members["json"]) if "json" in self.members else []
        if not found and "txt" in self.members:
            found = [_decoded(self.members["txt"])]
        captions = tuple(text.strip()[:MAX_CAPTION] for text in found if text.strip())
        if not captions:
            raise UnusableSample("no caption")
        return captions

    def class_number(self) -> int | None:
        """The class, or None if the sample has none. Raises UnusableSample if it is not a number."""
        if CLASS_SUFFIX not in self.members:
            return None
        text = _decoded(self.members[CLASS_SUFFIX]).strip()
        if not (text.isascii() and text.isdigit()):
            raise UnusableSample("class is not a number")
        return int(text)


def parse_sample(data: bytes, where: str) -> RawSample:
    """Take apart the bytes of one sample, cut out of a shard by the index and checked against it.

    These are the bytes that the strict reader has seen when the index was built. So where they have the plain form,
    which nearly all have, what is in them is taken as it is; anything else is for the strict reader.

    Raises:
        CorruptError: they are not whole members of one sample.
    """
    return _plain_sample(data) or _strict_sample(data, where)


def _plain_sample(data: bytes) -> RawSample | None:
    """A sample of regular files with short names and octal sizes, all of one key; None if it is anything else."""
    key: str | None = None
    members: dict[str, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        size = _plain_size(data, at)
        if size is None or at + BLOCK + size > end:
            return None
        name = split_name(data[at : data.index(0, at)].decode("utf-8", "surrogateescape"))
        start = at + BLOCK
        at = start + size + -size % BLOCK
        if name is None:
            continue
        if key is not None and name.key != key:
            return None
        key = name.key
        if name.suffix in KNOWN_SUFFIXES:
            members[name.suffix] = data[start : start + size]
    return None if key is None or at != end else RawSample(key, members)


def _plain_size(data: bytes, at: int) -> int | None:
    """Size of the member whose header is at an offset; None if the header has more than a name, a type and a size."""
    plain = data[at + 257 : at + 262] == b"ustar" and data[at + 156] == _REGULAR
    if not plain or data[at + 345] or not data[at] or data[at + 99]:
        return None
    digits = data[at + 124 : at + 135]
    return int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else None


def _strict_sample(data: bytes, where: str) -> RawSample:
    key: str | None = None
    members: dict[str, bytes] = {}
    tar = TarReader(io.BytesIO(data).read, where, wanted=_is_known, fragment=True)
    for member in tar:
        name = split_name(member.name)
        if name is None:
            continue
        if key is None:
            key = name.key
        if name.key != key:
            raise CorruptError(f"{where}: the index cuts through samples {key!r} and {name.key!r}.")
        if member.data is not None:
            members[name.suffix] = member.data
    if key is None:
        raise CorruptError(f"{where}: there is no sample where the index says.")
    return RawSample(key, members)


def _is_known(name: str) -> bool:
    split = split_name(name)
    return split is not None and split.suffix in KNOWN_SUFFIXES


def _json_captions(payload: bytes) -> list[str]:
    try:
        content = json.loads(_decoded(payload))
    except (ValueError, RecursionError):
        return []
    if not isinstance(content, dict):
        return []
    value = content.get("captions", content.get("caption"))
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _decoded(payload: bytes) -> str:
    # Web captions are often cut inside a character; replacing it keeps the rest of the caption.
    return payload.decode("utf-8", "replace").removeprefix("\ufeff")
