"""Pieces of a large object on their way to storage: counted, and joined to parts of the size a service wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clipctl.contract.errors import InternalError
from clipctl.contract.store import Part


def exactly(parts: Iterable[Part], size: int) -> Iterator[Part]:
    """The pieces as they are. Raises `InternalError` unless they are `size` bytes in all: half an object is no use."""
    seen = 0
    for part in parts:
        seen += len(part)
        if seen > size:
            break
        yield part
    if seen != size:
        raise InternalError(f"an object of {size} bytes was to be stored, but its pieces have {seen} or more.")


def regrouped(parts: Iterable[Part], length: int) -> Iterator[bytes]:
    """The same bytes in pieces of exactly `length`, the last one shorter; each is a copy."""
    held: list[bytes] = []
    space = length
    for part in parts:
        view = memoryview(part)
        while view:
            held.append(bytes(view[:space]))
            view = view[space:]
            space -= len(held[-1])
            if space == 0:
                yield held[0] if len(held) == 1 else b"".join(held)
                held, space = [], length
    if held:
        yield b"".join(held)
