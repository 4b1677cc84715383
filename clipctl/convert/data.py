"""Training and validation data of an OpenCLIP command."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import PurePosixPath

from clipctl.convert.commandline import OpenClipCommand
from clipctl.convert.conversion import Conversion

_TABLES = {".csv": ",", ".tsv": "\t"}
_PIPE_S3 = re.compile(r"pipe:\s*aws\s+s3\s+cp\s+(?:--\S+\s+)*(s3://\S+)\s+-\s*")
_PIPE_CAT = re.compile(r"pipe:\s*cat\s+(\S+)\s*")
_AUGMENT = {
    "scale": "scale",
    "ratio": "ratio",
    "color_jitter": "color_jitter",
    "color_jitter_prob": "color_jitter_prob",
    "gray_scale_prob": "gray_scale_prob",
    "re_prob": "erase_prob",
    "re_count": "erase_count",
}


def translate_data(command: OpenClipCommand, conversion: Conversion) -> None:
    """Fill `data`, and `eval.retrieval.data` from the validation data."""
    if command["dataset_type"] == "synthetic":
        conversion.refuse("--dataset-type synthetic: made-up pictures teach nothing; give real data.")
    elif command["train_data"]:
        conversion.set("data.train", _location(command["train_data"], "train", command, conversion))
    else:
        conversion.refuse("without --train-data the command trains nothing; `clipctl eval` evaluates a model.")
    if command["val_data"]:
        conversion.set("eval.retrieval.data", _location(command["val_data"], "val", command, conversion))
        conversion.set("eval.retrieval.loss_batch", command["batch_size"])
    if command["train_data_upsampling_factors"]:
        conversion.refuse("--train-data-upsampling-factors: weights of several sources are not supported.")
    if command["dataset_resampled"]:
        conversion.note("--dataset-resampled: samples are not drawn with replacement; every epoch has each one once.")
    conversion.set("data.threads", max(1, command["workers"]))
    _augment(command, conversion)


def steps_per_epoch(command: OpenClipCommand) -> int | None:
    """Optimiser steps of an epoch as OpenCLIP rounds them; None if the command does not say how many samples.

    `get_wds_dataset` rounds the batches up, per data worker, and a trailing part of an accumulated group is dropped.
    """
    samples: int | None = command["train_num_samples"]
    if not samples:
        return None
    batches: int = math.ceil(samples / (command["batch_size"] * command.world))
    if not _is_table(command["train_data"] or ""):
        workers = max(1, command["workers"])
        batches = math.ceil(batches / workers) * workers
    return max(1, batches // int(command["accum_freq"]))


def _location(value: str, purpose: str, command: OpenClipCommand, conversion: Conversion) -> str | None:
    if "::" in value:
        conversion.refuse(f"--{purpose}-data with `::`: several sources are not supported; pack them into one.")
        return None
    if _is_table(value):
        return _packed(value, purpose, command, conversion)
    for pattern in (_PIPE_S3, _PIPE_CAT):
        found = pattern.fullmatch(value)
        if found:
            conversion.note(f"--{purpose}-data: {found.group(1)} is read directly, without a subprocess.")
            return found.group(1)
    if value.startswith("pipe:"):
        conversion.refuse(f"--{purpose}-data {value!r}: only `aws s3 cp ... -` and `cat` are known; give the URL.")
        return None
    return value


def _is_table(value: str) -> bool:
    return PurePosixPath(value).suffix in _TABLES


def _packed(table: str, purpose: str, command: OpenClipCommand, conversion: Conversion) -> str:
    """Tables are packed into shards once; training then streams them."""
    out = f"data/{PurePosixPath(table).stem}"
    words = ["clipctl", "data", "pack", table, out]
    words += ["--image-column", command["csv_img_key"], "--caption-column", command["csv_caption_key"], "--root", "."]
    if command["csv_separator"] != _TABLES[PurePosixPath(table).suffix]:
        words += ["--separator", "tab" if command["csv_separator"] == "\t" else command["csv_separator"]]
    conversion.preparations.append(shlex.join(words))
    conversion.note(f"--{purpose}-data: {table} is packed into shards once; see above.")
    return out


def _augment(command: OpenClipCommand, conversion: Conversion) -> None:
    given = dict(command["aug_cfg"] or {})
    if given.get("use_timm") and given.get("color_jitter"):
        given.setdefault("color_jitter_prob", 1.0)  # timm changes the colours of every image
    for key, value in given.items():
        if key == "use_timm":
            conversion.note("--aug-cfg use_timm: not needed; every augmentation is built in.")
        elif key in _AUGMENT:
            conversion.set(f"data.augment.{_AUGMENT[key]}", list(value) if isinstance(value, tuple) else value)
        else:
            conversion.refuse(f"--aug-cfg {key}: is not known.")
