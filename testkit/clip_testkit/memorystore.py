"""An `ObjectStore` in a dictionary: fast enough for a hundred thousand corruptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CorruptError, MissingError
from clipctl.contract.parts import exactly
from clipctl.contract.store import ObjectInfo, Part, Unfinished


class MemoryStore:
    """Keeps `objects` by key.

    Args:
        objects: what it holds at first.
    """

    root = "memory"

    def __init__(self, objects: Mapping[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})
        self.left: list[Unfinished] = []

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        if key not in self.objects:
            raise MissingError(f"{key} does not exist.")
        return self.objects[key]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        data = self.read(key)[start : start + length]
        if len(data) != length:
            raise CorruptError(f"{key} ends before byte {start + length}.")
        return data

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """See `ObjectStore.read_version`."""
        data = self.objects.get(key)
        return None if data is None else (data, sha256_hex(data))

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        self.objects[key] = bytes(data)

    def write_parts(self, key: str, parts: Iterable[Part], size: int) -> None:
        """See `ObjectStore.write_parts`."""
        self.write(key, b"".join(exactly(parts, size)))

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        if key in self.objects:
            return False
        self.write(key, data)
        return True

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """See `ObjectStore.replace`."""
        current = self.read_version(key)
        if current is None or current[1] != version:
            return False
        self.write(key, data)
        return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        return [ObjectInfo(key, len(data)) for key, data in sorted(self.objects.items()) if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self.objects.pop(key, None)

    def unfinished(self, prefix: str) -> Sequence[Unfinished]:
        """See `ObjectStore.unfinished`: what a test put into `left`."""
        return [item for item in self.left if item.key.startswith(prefix)]

    def discard(self, unfinished: Unfinished) -> None:
        """See `ObjectStore.discard`."""
        self.left = [item for item in self.left if item != unfinished]
