"""How long an epoch of an OpenCLIP command is."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path, PurePosixPath

from clipctl.contract.sections.sources import SEPARATOR
from clipctl.convert.commandline import OpenClipCommand

_TEXT_TABLES = (".csv", ".tsv")


def is_table(value: str) -> bool:
    """Whether OpenCLIP takes a location for a table."""
    return PurePosixPath(value).suffix in _TEXT_TABLES


def steps_per_epoch(command: OpenClipCommand) -> int | None:
    """Optimiser steps of an epoch as OpenCLIP rounds them; None if it depends on files that are not here.

    With shards the batches are rounded up, for all ranks and then per data worker (`get_wds_dataset`). Synthetic
    samples are shared by the ranks, and the rest that fills no batch is dropped; so it is with tables, whose length
    only they know, and `--train-num-samples` means nothing to them. A trailing part of an accumulated group is dropped.
    """
    location = command["train_data"] or ""
    batch, ranks = command["batch_size"], command.world
    if command["dataset_type"] == "synthetic":
        samples = command["train_num_samples"]
        batches = math.ceil(samples / ranks) // batch if samples else 0
    elif is_table(location):
        return None
    else:
        samples = command["train_num_samples"] or recorded_samples(location)
        workers = max(1, command["workers"])
        batches = math.ceil(math.ceil((samples or 0) / (batch * ranks)) / workers) * workers
    return max(1, batches // int(command["accum_freq"])) if samples else None


def recorded_samples(location: str) -> int | None:
    """What `sizes.json` or `__len__` beside the first shard says, as OpenCLIP's `get_dataset_size` reads them.

    Args:
        location: shards on this machine; of others nothing is known.
    """
    from clip_trainer.data.storage.location import expand_braces

    shards = [name for part in location.split(SEPARATOR) for name in expand_braces(part)]
    directory = Path(shards[0]).parent
    try:
        if (sizes := directory / "sizes.json").exists():
            by_name = json.loads(sizes.read_text())
            return sum(int(by_name[PurePosixPath(shard).name]) for shard in shards)
        if (length := directory / "__len__").exists():
            return int(ast.literal_eval(length.read_text()))
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):
        pass  # OpenCLIP would stop here; the index counts the samples anyway
    return None
