"""Which shards must be read to bring an index up to date, from what the store says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clip_trainer.data.index.table import ShardEntry
from clip_trainer.data.storage.source import ObjectInfo


@dataclass(frozen=True)
class IndexChanges:
    """Shards by what happened to them since they were indexed, each in the order of the store."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("new", "changed", "unchanged", "gone")}
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    def settled(self, before: Mapping[str, str], after: Mapping[str, str]) -> IndexChanges:
        """The same, once the shards were read: where the content is what it was, nothing has changed.

        Args:
            before: digests of the content of shards, by name, as they were indexed.
            after: those found now, in the order of the store.
        """
        same = {name for name in self.changed if before[name] == after.get(name)}
        unchanged = tuple(name for name in after if name in same or name in self.unchanged)
        return replace(self, changed=tuple(name for name in self.changed if name not in same), unchanged=unchanged)


def find_changes(found: Sequence[ObjectInfo], indexed: Mapping[str, ShardEntry]) -> IndexChanges:
    """Compare what is stored with what was indexed.

    Args:
        found: the shards that there are.
        indexed: entries of the index by name.
    """
    new, changed, unchanged = [], [], []
    for info in found:
        entry = indexed.get(info.name)
        if entry is None:
            new.append(info.name)
        elif is_unchanged(info, entry):
            unchanged.append(info.name)
        else:
            changed.append(info.name)
    names = {info.name for info in found}
    gone = tuple(name for name in indexed if name not in names)
    return IndexChanges(tuple(new), tuple(changed), tuple(unchanged), gone)


def is_unchanged(info: ObjectInfo, entry: ShardEntry) -> bool:
    """Whether an object is surely the one that was indexed: same size, and same etag or time of change.

    Where a store tells neither etag nor time, nothing is sure.
    """
    if info.bytes != entry.bytes:
        return False
    if info.etag or entry.etag:
        return info.etag == entry.etag
    return info.modified != 0 and info.modified == entry.modified
