"""Options of the commands that write shards: how large, with which images, by how many threads."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from clipctl.contract.errors import SpecError

if TYPE_CHECKING:
    from clip_trainer.data.writing.image_resize import Resize, ResizeMode
    from clip_trainer.data.writing.shard_set import WriteSummary
    from clip_trainer.data.writing.shard_writer import WriteOptions

SamplesPerShard = Annotated[int, typer.Option(min=1, help="Samples in one shard, at most.")]
ShardBytes = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Bytes of one shard, at most, as 500M or 3G. Default: no limit.")
]
ResizeTo = Annotated[
    int | None,
    typer.Option(
        "--resize",
        min=1,
        metavar="PIXELS",
        help="Make larger images this small, as JPEG. Smaller ones stay byte for byte. Default: all stay.",
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        "--resize-mode",
        metavar="shortest|longest|crop",
        help="What --resize is about: the shorter side, the longer one, or a square out of the middle.",
    ),
]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Quality of the JPEGs that --resize writes.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads. Default: one a processor, more for remote data.")]
OnError = Annotated[
    str,
    typer.Option(
        metavar="fail|skip",
        help="At a sample that cannot be written: stop, or leave it out and list it in shard-*.errors.jsonl.",
    ),
]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_REMOTE_WORKERS = 16


def write_options(
    samples_per_shard: int, shard_bytes: str | None, workers: int | None, on_error: str, *, remote: bool = False
) -> WriteOptions:
    """What the options mean. Raises SpecError."""
    from clip_trainer.data.writing.shard_writer import WriteOptions

    if on_error not in ("fail", "skip"):
        raise SpecError(f"--on-error {on_error} is not known.", hint="Use fail or skip.")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return WriteOptions(
        samples_per_shard=samples_per_shard,
        shard_bytes=None if shard_bytes is None else _bytes(shard_bytes),
        workers=workers or (max(processors, _REMOTE_WORKERS) if remote else processors),
        skip_errors=on_error == "skip",
    )


def resize_option(size: int | None, mode: str, quality: int) -> Resize | None:
    """How images are made smaller, if they are. Raises SpecError."""
    from clip_trainer.data.writing.image_resize import Resize

    if mode not in ("shortest", "longest", "crop"):
        raise SpecError(f"--resize-mode {mode} is not known.", hint="Use shortest, longest or crop.")
    return None if size is None else Resize(size, cast("ResizeMode", mode), quality)


def say_written(done: WriteSummary, fields: dict[str, Any], *, json: bool) -> None:
    """Print what was written."""
    from clipctl.output import say, say_json, size

    if json:
        say_json(fields)
        return
    what = f"{done.samples} samples in {done.shards} shards ({size(done.bytes)})"
    say(f"{done.out} is complete already: {what}" if done.complete else f"{what} written to {done.out}")
    if done.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in done.skipped.items())
        say(f"{sum(done.skipped.values())} left out ({reasons}), see {done.out}/shard-*.errors.jsonl")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)(?:i?B)?", text)
    if match is None or not int(match.group(1)):
        raise SpecError(f"--shard-bytes {text} is not a size.", hint="Write it as 500M or 3G.")
    return int(match.group(1)) * _UNITS[match.group(2)]
