"""Reading and writing an index as a pair of objects: the table first, then the header that names it.

Tables are never overwritten or deleted, because a run that opened an index goes on reading the rows of its table; an
`index-*.bin` that no header names may be deleted when no run uses it any more.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import NamedTuple

import xxhash

from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.header import INDEX_HINT, IndexHeader, header_name
from clip_trainer.data.index.join import in_memory, join_index
from clip_trainer.data.storage.location import INDEX_NAME, Location
from clip_trainer.data.storage.source import Source
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CorruptError, MissingError

_READ_WHOLE = 8 << 20
"""Tables up to this size (600,000 samples) are read in one piece; of larger ones, rows are read when needed."""


class IndexPlace(NamedTuple):
    """Where the header of an index is, or would be."""

    source: Source
    name: str

    def __str__(self) -> str:
        return f"{self.source.base}/{self.name}"


def place_beside(source: Source, name: str | None = None) -> IndexPlace:
    """Beside the shards; `name` is that of a further index."""
    return IndexPlace(source, header_name(name))


def place_in_cache(
    source: Source, location: Location, cache_dir: Path | None = None, name: str | None = None
) -> IndexPlace:
    """Where the index of a read-only dataset, or of a part of a directory, is kept."""
    key = "\n".join((source.base, *(location.names or ()), *((f"index={name}",) if name else ())))
    return IndexPlace(LocalSource(str(cache_dir or default_cache())), f"{xxhash.xxh3_128_hexdigest(key.encode())}.json")


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/clipctl/index`."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "clipctl" / "index"


def load_index(place: IndexPlace, *, whole: bool = False) -> ShardIndex:
    """Read an index.

    Args:
        place: where its header is.
        whole: whether every row is wanted soon, so that the table should be read in one piece.

    Raises:
        MissingError: there is no header.
        CorruptError: the header or its table is damaged, or the table is gone.
    """
    header = IndexHeader.from_json(place.source.load(place.name), str(place))
    return _joined(header, place.source, str(place), whole)


def save_index(source: Source, index: ShardIndex, name: str = INDEX_NAME) -> None:
    """Write an index: its table, then its header.

    Raises:
        CannotCreateError, PermissionDeniedError, UnavailableError: from the store.
    """
    source.save(index.header.table.name, index.table_file())
    source.save(name, index.header.to_json())


def describe_index(index: ShardIndex, *, with_table: bool) -> bytes:
    """The index for another process: its header, and its table if that is out of the other's reach."""
    whole = index.whole
    table = base64.b64encode(whole.table_file()).decode() if with_table else None
    return json.dumps({"header": whole.header.to_json().decode(), "table": table}).encode()


def join_described(payload: bytes, source: Source) -> ShardIndex:
    """The index of `describe_index`, its table read from beside the shards unless it came along.

    Raises:
        CorruptError: the description, or the table, is damaged.
    """
    try:
        content = json.loads(payload)
        header, packed = str(content["header"]), content["table"]
        table = None if packed is None else base64.b64decode(packed, validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise CorruptError(f"The description of the index of {source.base} is damaged ({error}).") from error
    parsed = IndexHeader.from_json(header.encode(), f"The index of {source.base}")
    if table is not None:
        return join_index(parsed, in_memory(table), parsed.table.name)
    return _joined(parsed, source, f"The index of {source.base}", whole=False)


def _joined(header: IndexHeader, source: Source, where: str, whole: bool) -> ShardIndex:
    """Header and table; the table's size is checked here, everything else against digests."""
    table = header.table
    whole = whole or table.bytes <= _READ_WHOLE
    try:
        file = source.load(table.name) if whole else b""
        size = len(file) if whole else source.info(table.name).bytes
    except MissingError as error:
        raise CorruptError(f"{where} belongs to a table, {table.name}, that is missing.", hint=INDEX_HINT) from error
    path = f"{source.base}/{table.name}"
    if size != table.bytes:
        raise CorruptError(f"{path} has {size} bytes, its header says {table.bytes}.", hint=INDEX_HINT)
    if whole:
        return join_index(header, in_memory(file), path)
    return join_index(header, lambda offset, length: source.read(table.name, offset, length), path)
