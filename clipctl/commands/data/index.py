"""`clipctl data index`: what is in the shards, once and for all."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import Url, progress_line
from clipctl.commands.options import Json


def index(
    data: Url,
    force: Annotated[bool, typer.Option("--force", help="Read everything again even if a valid index exists.")] = False,
    json: Json = False,
) -> None:
    """Write the index of a data set beside its shards; training needs one."""
    from clip_trainer.data.index import index_dataset
    from clipctl.output import say, say_json, size

    with progress_line() as progress:
        found = index_dataset(data, force=force, progress=progress).index
    if json:
        say_json(
            {"shards": len(found.shards), "samples": found.samples, "bytes": found.total_bytes, "digest": found.digest}
        )
    else:
        say(f"{found.samples} samples in {len(found.shards)} shards ({size(found.total_bytes)}), index {found.digest}")
