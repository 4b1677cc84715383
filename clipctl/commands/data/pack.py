"""`clipctl data pack`: images and captions become shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.data.options import progress_line
from clipctl.commands.options import Json

if TYPE_CHECKING:
    from clip_trainer.data.pack_plan import PackItem


def pack(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .csv, .tsv or .jsonl table of images, or a folder per class.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory or s3:// URL for the shards.")],
    image_column: Annotated[str, typer.Option(help="Column of image paths, relative to --root.")] = "image",
    caption_column: Annotated[
        list[str] | None, typer.Option(help="Column of captions. Repeatable. Default: caption.")
    ] = None,
    class_column: Annotated[str, typer.Option(help="Column of class numbers, if there is one.")] = "cls",
    separator: Annotated[
        str | None, typer.Option(help="Separator of the table's cells, or `tab`. Default: by the file's ending.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only rows whose split column says this.")] = None,
    split_column: Annotated[str, typer.Option(help="Column that names a row's split.")] = "split",
    root: Annotated[str | None, typer.Option(help="Directory of the images. Default: the table's.")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="Caption for class folders, with {} for the class name. Repeatable."),
    ] = None,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples in one shard.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the samples.")] = 0,
    json: Json = False,
) -> None:
    """Write images and captions as tar shards with an index."""
    import os
    from dataclasses import asdict

    from clip_trainer.data.pack import pack as write
    from clip_trainer.data.pack_plan import plan_class_folders, plan_manifest
    from clipctl.output import say, say_json, size

    items: tuple[PackItem, ...]
    if os.path.isdir(source):
        items = plan_class_folders(source, templates=template or ["a photo of a {}."])
    else:
        items = plan_manifest(
            source,
            image_column=image_column,
            caption_columns=caption_column or ["caption"],
            class_column=class_column,
            split=split,
            split_column=split_column,
            root=root,
            separator="\t" if separator == "tab" else separator,
        )
    with progress_line() as progress:
        done = write(items, out, samples_per_shard=samples_per_shard, seed=seed, progress=progress)
    if json:
        say_json(asdict(done))
    else:
        say(f"{done.samples} samples in {done.shards} shards ({size(done.bytes)}) written to {done.out}")
