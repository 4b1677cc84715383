"""How the members of a shard form samples, as webdataset groups them.

The *key* of a member is its path up to the first dot of its base name; what follows is its *suffix*, in lower case.
Neighbouring members with the same key are one sample. Members without a dot in the base name, hidden files and
`__meta__` files belong to no sample. (Of a hidden file in a directory, such as the `d/._a.jpg` of macOS, webdataset
makes a sample without an image called `d/`, which cuts the sample around it in two.)
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clipctl.contract.errors import CorruptError

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


class SampleGrouping:
    """Decides, member by member, where a sample begins.

    A key whose members do not all follow each other, or a suffix that comes again within a key, is a mistake in most
    shards. webdataset refuses the suffix and takes the key for two samples; OpenCLIP takes both for two samples, since
    LAION-400M has such shards.

    Args:
        where: how errors call the shard.
        keep_duplicates: whether to group as OpenCLIP does instead of refusing the shard.
    """

    def __init__(self, where: str, *, keep_duplicates: bool = False) -> None:
        self._where, self._keep = where, keep_duplicates
        self._key: str | None = None
        self._suffixes: set[str] = set()
        self._keys: set[str] = set()

    def begins_sample(self, member: MemberName) -> bool:
        """Whether the next member is the first of a sample.

        Raises:
            CorruptError: its key or its suffix came before, and that is not allowed.
        """
        again = member.key == self._key and member.suffix in self._suffixes
        if again and not self._keep:
            raise CorruptError(
                f"{self._where}: sample {member.key!r} has two members {member.suffix!r}.",
                hint="Give every sample its own key and pack the shard again, or take them for two samples with "
                "`clipctl data index --duplicates keep`.",
            )
        begins = again or member.key != self._key
        if begins:
            self._begin(member.key)
        self._suffixes.add(member.suffix)
        return begins

    def _begin(self, key: str) -> None:
        if not self._keep:
            if key in self._keys:
                raise CorruptError(
                    f"{self._where}: the key {key!r} occurs twice, apart from each other.",
                    hint="Keys must be unique and a sample's members must follow each other; pack the shard again, or "
                    "take them for two samples with `clipctl data index --duplicates keep`.",
                )
            self._keys.add(key)
        self._key, self._suffixes = key, set()
