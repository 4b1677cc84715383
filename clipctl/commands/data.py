"""`clipctl data`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.options import Json, command_app

if TYPE_CHECKING:
    from clip_trainer.data.pack_plan import PackItem
    from clipctl.dataprogress import ProgressLine

app = command_app("Pack, index and verify data sets.")
Url = Annotated[
    str, typer.Argument(metavar="DATA", help="Directory or URL of shards, a brace pattern of shards, or one shard.")
]


@app.command("pack")
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
    with _progress() as progress:
        done = write(items, out, samples_per_shard=samples_per_shard, seed=seed, progress=progress)
    if json:
        say_json(asdict(done))
    else:
        say(f"{done.samples} samples in {done.shards} shards ({size(done.bytes)}) written to {done.out}")


@app.command("index")
def index(
    data: Url,
    force: Annotated[bool, typer.Option("--force", help="Read everything again even if a valid index exists.")] = False,
    json: Json = False,
) -> None:
    """Write the index of a data set beside its shards; training needs one."""
    from clip_trainer.data.index import index_dataset
    from clipctl.output import say, say_json, size

    with _progress() as progress:
        found = index_dataset(data, force=force, progress=progress).index
    if json:
        say_json(
            {"shards": len(found.shards), "samples": found.samples, "bytes": found.total_bytes, "digest": found.digest}
        )
    else:
        say(f"{found.samples} samples in {len(found.shards)} shards ({size(found.total_bytes)}), index {found.digest}")


@app.command("verify")
def verify(
    data: Url,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte; default: compare sizes and etags.")] = False,
    json: Json = False,
) -> None:
    """Compare a data set with its index. Exit code 65 if a shard is damaged."""
    from dataclasses import asdict

    from clip_trainer.data.verify import verify_dataset
    from clipctl.contract.errors import ExitCode
    from clipctl.output import say, say_json, size

    with _progress() as progress:
        report = verify_dataset(data, deep=deep, progress=progress)
    if json:
        say_json({**asdict(report), "ok": report.ok})
    else:
        for problem in report.problems:
            say(f"DAMAGED {problem.shard}: {problem.problem}")
        how = "every byte read" if deep else "sizes and etags compared"
        verdict = "OK" if report.ok else f"{len(report.problems)} damaged"
        say(f"{verdict}: {report.samples} samples in {report.shards} shards ({size(report.bytes)}), {how}")
    if not report.ok:
        raise typer.Exit(int(ExitCode.CORRUPT))


@contextlib.contextmanager
def _progress() -> Iterator[ProgressLine]:
    from clipctl.dataprogress import ProgressLine

    line = ProgressLine()
    try:
        yield line
    finally:
        line.close()
