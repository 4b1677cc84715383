"""What can be packed: one image with its captions, and sources of such items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import xxhash

from clipctl.contract.errors import SpecError


@dataclass(frozen=True)
class PackItem:
    """One pair (or image with several captions) to pack."""

    image: str | bytes  # path of a file, or its content
    captions: tuple[str, ...]
    cls: int | None = None
    class_name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # further columns to keep, JSON values
    where: str = ""  # how errors call it, as table:line


class PackSource(Protocol):
    """Numbered items, made when they are asked for: a source of ten million holds offsets, not items."""

    identity: str  # digest of what decides the items, except the content of image files
    classes: tuple[str, ...]  # names by class number; empty without classes

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> PackItem:
        """An item; called from several threads. Raises Unpackable if its row is malformed."""
        ...


class ListedItems:
    """Items that a program has made; implements `PackSource`."""

    def __init__(self, items: Sequence[PackItem]) -> None:
        names = ClassNames()
        for item in items:
            names.add(item)
        self._items = items
        self.classes = names.finish()
        self.identity = xxhash.xxh3_128_hexdigest(repr(tuple(items)).encode("utf-8", "surrogateescape"))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> PackItem:
        """An item."""
        return self._items[number]


class ClassNames:
    """Collects the names of class numbers, which must agree."""

    def __init__(self) -> None:
        self._named: dict[int, str] = {}

    def add(self, item: PackItem) -> None:
        """Take in an item. Raises SpecError if its class has another name already."""
        if item.cls is None or item.class_name is None:
            return
        known = self._named.setdefault(item.cls, item.class_name)
        if known != item.class_name:
            raise SpecError(f"Class {item.cls} has two names: {known!r} and {item.class_name!r}.")

    def finish(self) -> tuple[str, ...]:
        """Names by class number; none if no item names its class. Raises SpecError if a number is left out."""
        if set(self._named) != set(range(len(self._named))):
            raise SpecError("Class numbers must be 0, 1, 2, ... without a gap.")
        return tuple(self._named[number] for number in range(len(self._named)))
