"""A shard that is being gathered: results and images come in any order, and leave in the order of the rows."""

from __future__ import annotations

import io
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from clip_trainer.data.gather.errors import OK, GatherError
from clip_trainer.data.gather.results import Result, failed, key_of
from clip_trainer.data.gather.table import Row
from clip_trainer.data.shards.grouping import split_name
from clip_trainer.data.shards.tar import TarReader
from clip_trainer.data.writing.image import StoredImage
from clip_trainer.data.writing.shard_record import shard_name
from clip_trainer.data.writing.shard_tar import TarBuffer, members_bytes


class _Piece(NamedTuple):
    start: int
    length: int


class GatheringShard:
    """The shard of a run of rows; threads add to it.

    Samples wait in a temporary file: images of many shards that are waited for would not fit in memory.

    Args:
        number: of the shard.
        rows: its rows.
    """

    def __init__(self, number: int, rows: Sequence[Row]) -> None:
        self.number, self.rows = number, rows
        self._lock = threading.Lock()
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._pieces: dict[int, _Piece] = {}
        self._results: dict[int, Result] = {}

    @property
    def complete(self) -> bool:
        """Every row has a result."""
        return len(self._results) == len(self.rows)

    def keep(self, results: Iterable[Result], archive: bytes) -> None:
        """Take over what an earlier attempt has: the rows that were fetched, and their samples."""
        good = {result.key: result for result in results if result.ok}
        for key, members in _samples(archive, shard_name(self.number)):
            if key in good:
                self._store(good[key], members_bytes(members))

    def add_image(self, row: Row, image: StoredImage, sha256: str) -> None:
        """A row's image has arrived.

        Args:
            row: whose.
            image: what is stored of it.
            sha256: of the file as it came.
        """
        size, (width, height) = len(image.data), image.size
        name, key = shard_name(self.number), key_of(row.number)
        result = Result(row.number, row.url, OK, 200, size, width, height, "", name, key)
        self._store(result, members_bytes(_members(row, image, sha256)))

    def add_failure(self, row: Row, error: GatherError) -> None:
        """A row will have no image."""
        with self._lock:
            self._results[row.number] = failed(row, self.number, error)

    def missing(self) -> list[Row]:
        """Rows without a result."""
        return [row for row in self.rows if row.number not in self._results]

    def results(self) -> list[Result]:
        """The results so far, in the order of the rows."""
        return [self._results[row.number] for row in self.rows if row.number in self._results]

    def archive(self) -> bytes:
        """The tar of the samples in the order of the rows; empty without samples."""
        tar = TarBuffer()
        for row in self.rows:
            if piece := self._pieces.get(row.number):
                self._spool.seek(piece.start)
                tar.add(self._spool.read(piece.length))
        return tar.finish() if self._pieces else b""

    def close(self) -> None:
        """Give back the temporary file."""
        self._spool.close()

    def _store(self, result: Result, members: bytes) -> None:
        with self._lock:
            start = self._spool.seek(0, 2)
            self._spool.write(members)
            self._pieces[result.row] = _Piece(start, len(members))
            self._results[result.row] = result


def _members(row: Row, image: StoredImage, sha256: str) -> list[tuple[str, bytes]]:
    """The members of a sample: image, caption, and where they come from."""
    key = key_of(row.number)
    origin = {
        "row": row.number,
        "url": row.url,
        "caption": row.caption,
        "status": OK,
        "sha256": sha256,
        "width": image.size[0],
        "height": image.size[1],
        "original_width": image.original[0],
        "original_height": image.original[1],
    }
    caption, described = row.caption.encode("utf-8", "replace"), json.dumps(origin, ensure_ascii=False)
    return [
        (f"{key}.{image.suffix}", image.data),
        (f"{key}.txt", caption),
        (f"{key}.json", described.encode("utf-8", "replace")),
    ]


def _samples(archive: bytes, where: str) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Key and members of every sample of a shard of ours."""
    members: dict[str, list[tuple[str, bytes]]] = {}
    for member in TarReader(io.BytesIO(archive).read, where, wanted=lambda name: True):
        name = split_name(member.name)
        if name is not None and member.data is not None:
            members.setdefault(name.key, []).append((member.name, member.data))
    yield from members.items()
