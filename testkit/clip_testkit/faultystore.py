"""A store that fails at a chosen operation, as a process that dies there or a storage that goes away would."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from clipctl.contract.errors import UnavailableError
from clipctl.contract.store import ObjectInfo, ObjectStore, Part, Unfinished


class Fault(Enum):
    """What happens at the chosen operation."""

    REFUSED = "it fails, and nothing has changed; the next one works again"
    ANSWER_LOST = "it is done, but reported as failed; the next one works again"
    DEAD_BEFORE = "it fails, and so does every one after it"
    DEAD_AFTER = "it is done, but reported as failed, and every one after it fails"


class FaultyStore:
    """Passes operations on to `store`, but for those from number `at` on, as `fault` says.

    Args:
        store: where the objects are.
        fault: what happens.
        at: number of the operation, from 0; None: never.
    """

    def __init__(self, store: ObjectStore, fault: Fault = Fault.REFUSED, at: int | None = None) -> None:
        self.done: list[str] = []
        self._store = store
        self._fault = fault
        self._at = at

    @property
    def root(self) -> str:
        """See `ObjectStore.root`."""
        return self._store.root

    @property
    def fired(self) -> bool:
        """Whether the chosen operation was reached."""
        return self._at is not None and len(self.done) > self._at

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        return bytes(self._pass(f"read {key}", lambda: self._store.read(key)))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        return bytes(self._pass(f"read_range {key}", lambda: self._store.read_range(key, start, length)))

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """See `ObjectStore.read_version`."""
        found: tuple[bytes, str] | None = self._pass(f"read_version {key}", lambda: self._store.read_version(key))
        return found

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        self._pass(f"write {key}", lambda: self._store.write(key, data))

    def write_parts(self, key: str, parts: Iterable[Part], size: int) -> None:
        """See `ObjectStore.write_parts`."""
        self._pass(f"write_parts {key}", lambda: self._store.write_parts(key, parts, size))

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        return bool(self._pass(f"create {key}", lambda: self._store.create(key, data)))

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """See `ObjectStore.replace`."""
        return bool(self._pass(f"replace {key}", lambda: self._store.replace(key, data, version)))

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._pass(f"delete {key}", lambda: self._store.delete(key))

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """See `ObjectStore.unfinished`."""
        found: list[Unfinished] = self._pass(f"unfinished {prefix}", lambda: self._store.unfinished(prefix))
        return found

    def discard(self, unfinished: Unfinished) -> None:
        """See `ObjectStore.discard`."""
        self._pass(f"discard {unfinished.key}", lambda: self._store.discard(unfinished))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        found: list[ObjectInfo] = self._pass(f"list {prefix}", lambda: self._store.list(prefix))
        return found

    def _pass(self, name: str, operation: Callable[[], Any]) -> Any:
        number = len(self.done)
        self.done.append(name)
        if self._at is None or number < self._at:
            return operation()
        first, dead = number == self._at, self._fault in (Fault.DEAD_BEFORE, Fault.DEAD_AFTER)
        if not first and not dead:
            return operation()
        if first and self._fault in (Fault.ANSWER_LOST, Fault.DEAD_AFTER):
            operation()
        raise UnavailableError(f"storage is gone at operation {number} ({name}).")
