"""How the members of a shard form samples, as webdataset groups them.

The *key* of a member is its path up to the first dot of its base name; what follows is its *suffix*, in lower case.
Neighbouring members with the same key are one sample. Members without a dot in the base name, hidden files and
`__meta__` files belong to no sample.
"""

from __future__ import annotations

import re
from typing import NamedTuple

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of images, in order of preference, as OpenCLIP reads them."""

CAPTION_SUFFIXES = ("txt", "json")
"""`txt` holds one caption; `json` may hold several, as a list under `captions`, or one under `caption`."""

CLASS_SUFFIX = "cls"
"""A decimal class number, for zero-shot evaluation."""

KNOWN_SUFFIXES = frozenset((*IMAGE_SUFFIXES, *CAPTION_SUFFIXES, CLASS_SUFFIX))
"""The only members whose bytes are ever looked at; anything else (`.pkl`, `.pth`, ...) is passed over unread."""

_NAME = re.compile(r"\A((?:.*/|)[^./]+)[.]([^/]*)\Z", re.DOTALL)
_META = re.compile(r"\A__[^/]*__(?:\Z|/)")


class MemberName(NamedTuple):
    """Key and suffix of a member that belongs to a sample."""

    key: str
    suffix: str


def split_name(name: str) -> MemberName | None:
    """Key and suffix of a member, or None if it belongs to no sample.

    >>> split_name("a/b.seg.PNG")
    MemberName(key='a/b', suffix='seg.png')
    """
    match = _NAME.match(name)
    if match is None or _META.match(name):
        return None
    return MemberName(match.group(1), match.group(2).lower())
