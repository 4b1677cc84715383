"""What became of every row: `shard-000000.csv` beside `shard-000000.tar`.

The file is written after its shard, so who finds it knows that the shard is whole and its rows are done. A shard
without a single image has no tar.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from clip_trainer.data.gather.errors import OK, GatherError
from clip_trainer.data.gather.table import Row
from clip_trainer.data.writing.shard_record import shard_name
from clipctl.contract.errors import CorruptError


class Result(NamedTuple):
    """What became of one row; also a line of the file, in this order."""

    row: int
    url: str
    status: str  # `ok`, or the reason why there is no image
    http: int | None  # status of the last answer
    bytes: int | None  # of the image as it is stored
    width: int | None
    height: int | None
    error: str  # details of the reason
    shard: str
    key: str  # of the sample, whether or not there is one

    @property
    def ok(self) -> bool:
        """The image is in the shard."""
        return self.status == OK


def failed(row: Row, shard: int, error: GatherError) -> Result:
    """The result of a row without an image."""
    detail = " ".join(error.detail.split())
    return Result(
        row.number, row.url, error.reason, error.code, None, None, None, detail, shard_name(shard), key_of(row.number)
    )


def key_of(row: int) -> str:
    """The key of a row's sample: its number, so that it never changes."""
    return f"{row:09d}"


def results_name(shard: int) -> str:
    """Name of the results of a shard."""
    return shard_name(shard).removesuffix(".tar") + ".csv"


def to_csv(results: Iterable[Result]) -> bytes:
    """The content of a file of results."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Result._fields)
    writer.writerows(results)
    return text.getvalue().encode("utf-8", "replace")


def from_csv(data: bytes, where: str) -> list[Result]:
    """The results in a file.

    Raises:
        CorruptError: it is none of ours.
    """
    try:
        lines = csv.reader(io.StringIO(data.decode(), newline=""))
        if tuple(next(lines, ())) != Result._fields:
            raise ValueError("another header")
        return [_result(cells) for cells in lines]
    except (ValueError, csv.Error) as error:
        raise CorruptError(f"{where} holds no results ({error}).", hint="Delete it to fetch its rows again.") from error


def _result(cells: list[str]) -> Result:
    row, url, status, *numbers, error, shard, key = cells
    http, size, width, height = (int(number) if number else None for number in numbers)
    return Result(int(row), url, status, http, size, width, height, error, shard, key)
