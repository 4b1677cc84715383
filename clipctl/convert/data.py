"""Training and validation data of an OpenCLIP command."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from clipctl.contract.sections import ColumnsSection
from clipctl.contract.sections.sources import SEPARATOR, TABLES
from clipctl.convert.commandline import OpenClipCommand
from clipctl.convert.conversion import Conversion
from clipctl.convert.epoch import is_table, steps_per_epoch

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
        _synthetic(command, conversion)
    elif command["train_data"]:
        _train(command, conversion)
    else:
        conversion.refuse("without --train-data the command trains nothing; `clipctl eval` evaluates a model.")
    if command["val_data"]:
        locations = _locations(command["val_data"], "val", command, conversion)
        conversion.set("eval.retrieval.data", SEPARATOR.join(locations) or None)
        _columns(command["val_data"], "eval.retrieval.columns", command, conversion)
        conversion.set("eval.retrieval.loss_batch", command["batch_size"])
    _drawing(command, conversion)
    conversion.set("data.threads", max(1, command["workers"]))
    _augment(command, conversion)


def _synthetic(command: OpenClipCommand, conversion: Conversion) -> None:
    if command["train_num_samples"]:
        conversion.set("data.train", f"synthetic:{command['train_num_samples']}")
    else:
        conversion.refuse("--dataset-type synthetic needs --train-num-samples.")


def _train(command: OpenClipCommand, conversion: Conversion) -> None:
    """`data.train`: one location, several as they are, or several with weights."""
    locations = _locations(command["train_data"], "train", command, conversion)
    factors = command["train_data_upsampling_factors"]
    if factors is None:
        conversion.set("data.train", SEPARATOR.join(locations) or None)
    else:
        conversion.set("data.train", _weighted(locations, factors, command, conversion))
    _columns(command["train_data"], "data.columns", command, conversion)


def _weighted(
    locations: list[str], factors: str, command: OpenClipCommand, conversion: Conversion
) -> list[dict[str, Any]] | None:
    try:
        weights = [float(factor) for factor in factors.split(SEPARATOR)]
    except ValueError:
        weights = []
    if len(weights) != len(locations) or min(weights) <= 0:
        conversion.refuse(
            f"--train-data-upsampling-factors {factors}: it needs a positive factor for each of the "
            f"{len(locations)} sources."
        )
        return None
    if not command["dataset_resampled"]:
        conversion.refuse("--train-data-upsampling-factors: OpenCLIP takes them with --dataset-resampled only.")
    conversion.note(
        "--train-data-upsampling-factors: OpenCLIP draws shards by the factors and shows all samples of each; "
        "here every sample counts its source's factor (data.resample.weight_by: sample), which is the same in the long "
        "run."
    )
    return [{"url": url, "weight": weight} for url, weight in zip(locations, weights, strict=True)]


def _drawing(command: OpenClipCommand, conversion: Conversion) -> None:
    """`data.resample`, and what counts as an epoch."""
    steps = steps_per_epoch(command)
    batch = command["batch_size"] * command.world * command["accum_freq"]
    samples = None if steps is None else steps * batch
    if command["dataset_resampled"]:
        conversion.set("data.resample", {"samples_per_epoch": samples} if samples else {})
    else:
        conversion.set("data.epoch_samples", samples)
    if steps is not None:
        conversion.note(f"an epoch of OpenCLIP is {steps} steps here, of {batch} samples: its rounding is kept.")
    elif is_table(command["train_data"] or ""):
        conversion.note("OpenCLIP leaves out the rest of a table that fills no batch; here every row has its turn.")


def _locations(value: str, purpose: str, command: OpenClipCommand, conversion: Conversion) -> list[str]:
    found = (_location(part, purpose, command, conversion) for part in value.split(SEPARATOR))
    return [location for location in found if location is not None]


def _location(value: str, purpose: str, command: OpenClipCommand, conversion: Conversion) -> str | None:
    if command["dataset_type"] == "csv" and not is_table(value):
        conversion.refuse(f"--{purpose}-data {value}: a table is known by its ending; rename it to .csv or .tsv.")
        return None
    for pattern in (_PIPE_S3, _PIPE_CAT):
        found = pattern.fullmatch(value)
        if found:
            conversion.note(f"--{purpose}-data: {found.group(1)} is read directly, without a subprocess.")
            return found.group(1)
    if value.startswith("pipe:"):
        conversion.set("data.allow_pipe", True)
        conversion.note(f"--{purpose}-data {value!r} runs in the workers, which need its program; a URL needs none.")
    return value


def _columns(table: str, path: str, command: OpenClipCommand, conversion: Conversion) -> None:
    """Columns of a table where they differ from the defaults; relative images start where OpenCLIP is started."""
    if not is_table(table):
        return
    default, separator = ColumnsSection(), command["csv_separator"]
    given = {"image": command["csv_img_key"], "caption": command["csv_caption_key"], "root": "."}
    if separator != TABLES[PurePosixPath(table).suffix]:
        given["separator"] = separator
    conversion.set(path, {name: value for name, value in given.items() if value != getattr(default, name)})
    conversion.note(f"{path}.root: image paths in {table} start from the directory of the command, as in OpenCLIP.")


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
