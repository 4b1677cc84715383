"""What the commands of `clipctl data` share: the argument that names a data set, and the progress line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipctl.dataprogress import ProgressLine

Url = Annotated[
    str, typer.Argument(metavar="DATA", help="Directory or URL of shards, a brace pattern of shards, or one shard.")
]

IndexName = Annotated[
    str | None, typer.Option("--name", help="Which index of the data set, beside the main one. Default: the main one.")
]
Threads = Annotated[int, typer.Option(min=1, help="Shards read at the same time.")]
Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="What data.train of a run may be: shards, a table, a::b. Or a run.yaml."),
]


@contextlib.contextmanager
def progress_line() -> Iterator[ProgressLine]:
    """A line on standard error that says how far an operation is; gone when the block ends."""
    from clipctl.dataprogress import ProgressLine

    line = ProgressLine()
    try:
        yield line
    finally:
        line.close()
