"""`clipctl data pack`: images and captions become shards."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import progress_line
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

_SOURCE = "A .csv, .tsv, .jsonl or .parquet table of images, a folder per class, or images with .txt or .json files."


def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=_SOURCE)],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory or s3:// URL for the shards.")],
    image_column: Annotated[str, typer.Option(help="Column of image paths, relative to --root, or images.")] = "image",
    caption_column: Annotated[
        list[str] | None, typer.Option(help="Column of captions. Repeatable. Default: caption.")
    ] = None,
    class_column: Annotated[str, typer.Option(help="Column of class numbers, if there is one.")] = "cls",
    keep_metadata: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column to keep in the json member. Repeatable.")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Separator of the table's cells, or `tab`. Default: by the file's ending.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only rows whose split column says this.")] = None,
    split_column: Annotated[str, typer.Option(help="Column that names a row's split.")] = "split",
    root: Annotated[str | None, typer.Option(help="Directory of the images. Default: the table's.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Caption for class folders, with {} for the class name. Repeatable.")
    ] = None,
    samples_per_shard: SamplesPerShard = 1000,
    shard_bytes: ShardBytes = None,
    resize: ResizeTo = None,
    resize_mode: Mode = "shortest",
    quality: Quality = 95,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the samples.")] = 0,
    workers: Workers = None,
    on_error: OnError = "fail",
    json: Json = False,
) -> None:
    """Write images and captions as tar shards with an index. Run it again to go on after an interruption."""
    from dataclasses import asdict
    from pathlib import Path

    from clip_trainer.data.pack.columns import Columns
    from clip_trainer.data.pack.input import open_input
    from clip_trainer.data.pack.pack import pack as write

    columns = Columns(
        image=image_column,
        captions=tuple(caption_column or ("caption",)),
        cls=class_column,
        split=split,
        split_column=split_column,
        root=None if root is None else Path(root).expanduser(),
        metadata=tuple(keep_metadata or ()),
    )
    options = write_options(samples_per_shard, shard_bytes, workers, on_error)
    smaller = resize_option(resize, resize_mode, quality)
    with progress_line() as progress:
        items = open_input(
            source,
            columns,
            templates=template or (),
            separator="\t" if separator == "tab" else separator,
            strict=not options.skip_errors,
            progress=progress,
        )
        done = write(items, out, options, seed=seed, resize=smaller, progress=progress)
    say_written(done, asdict(done), json=json)
