"""`clipctl data reshard`: shards become other shards."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import IndexName, Url, progress_line
from clipctl.commands.data.writeoptions import (
    Mode,
    OnError,
    Quality,
    ResizeTo,
    SamplesPerShard,
    ShardBytes,
    Workers,
    resize_option,
    say_written,
    write_options,
)
from clipctl.commands.options import Json


def reshard(
    data: Url,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory or s3:// URL for the new shards.")],
    name: IndexName = None,
    samples_per_shard: SamplesPerShard = 1000,
    shard_bytes: ShardBytes = None,
    resize: ResizeTo = None,
    resize_mode: Mode = "shortest",
    quality: Quality = 95,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Shuffle all samples by this seed. Default: keep their order.")
    ] = None,
    workers: Workers = None,
    on_error: OnError = "fail",
    json: Json = False,
) -> None:
    """Write the samples of a data set into new shards. Run it again to go on after an interruption."""
    from dataclasses import asdict

    from clip_trainer.data.pack.reshard import reshard as write
    from clip_trainer.data.storage.location import parse_location

    remote = parse_location(data).scheme != ""
    options = write_options(samples_per_shard, shard_bytes, workers, on_error, remote=remote)
    smaller = resize_option(resize, resize_mode, quality)
    with progress_line() as progress:
        done = write(data, out, options, index=name, seed=seed, resize=smaller, progress=progress)
    say_written(done, asdict(done), json=json)
