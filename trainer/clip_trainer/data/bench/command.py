"""`python -m clip_trainer.data.bench.command REQUEST`: what `clipctl data bench` runs.

The request is a JSON object; the answer is the report. See `clip_trainer.jsonanswer`.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from typing import Any

import torch

from clip_trainer.data.bench.advice import Situation, advise
from clip_trainer.data.bench.bench import Measured, Workload, bench
from clip_trainer.data.bench.timing import Timing
from clip_trainer.data.order.lanes import SampleOrder
from clip_trainer.data.progress import ProgressEvent
from clip_trainer.data.samples.opening import open_training_data
from clip_trainer.elastic.cpus import usable_cpus
from clip_trainer.jsonanswer import answer, tell
from clip_trainer.model import get_config
from clip_trainer.text import LoaderTokenizer, tokenizer_folder
from clip_trainer.vision import OPENAI_PREPROCESS, Transforms
from clip_trainer.vision.resizing import height_width
from clipctl.contract.sections import DataSection
from clipctl.contract.spec import lane_count

_STAGES = 6
_LANE_SAMPLES = 64  # a lane replaces bad samples by its own, so it needs some


def main(arguments: list[str]) -> dict[str, Any]:
    """Measure a data set.

    The request has `data` (a `data` section of run.yaml), `model` (a name), `batch`, `threads` (or null: one a CPU),
    `seconds` (for a stage) and `batches` (or null).

    Raises:
        ClipError: there is no such model, or the data cannot be read.
    """
    request = json.loads(arguments[0])
    # In training the CPUs are there for the loader; its threads are what shares the work out.
    torch.set_num_threads(1)
    load = _workload(request)
    load.samples.require("image", "caption")
    return _report(request, load, bench(load))


def _workload(request: dict[str, Any]) -> Workload:
    """As training would set it up."""
    config = get_config(request["model"])
    data = DataSection.model_validate_json(json.dumps(request["data"]))
    samples = open_training_data(data)
    stages = iter(range(_STAGES))
    lanes = lanes_for(request["batch"], sum(samples.counts))
    return Workload(
        samples=samples,
        order=SampleOrder(samples.counts, seed=0, lanes=lanes, shuffle_block=data.shuffle_block),
        transforms=Transforms(height_width(config.vision.image_size), OPENAI_PREPROCESS, data.augment),
        tokenize=LoaderTokenizer(config.text, tokenizer_folder(request["model"])),
        batch=request["batch"],
        threads=request["threads"] or usable_cpus(),
        max_pixels=data.max_pixels,
        seconds=request["seconds"],
        batches=request["batches"],
        told=lambda stage: tell(ProgressEvent(f"measuring {stage}", next(stages), _STAGES, 0, "")),
    )


def lanes_for(batch: int, samples: int) -> int:
    """As many lanes as a run would have, but fewer for a small data set."""
    most = min(lane_count(batch, 1), max(1, samples // _LANE_SAMPLES))
    return max(lanes for lanes in range(1, most + 1) if batch % lanes == 0)


def _report(request: dict[str, Any], load: Workload, measured: Measured) -> dict[str, Any]:
    height, width = load.transforms.image_size
    situation = Situation(
        stages=measured.stages,
        end_to_end=measured.end_to_end,
        threads=load.threads,
        cpus=usable_cpus(),
        remote=load.samples.remote,
        image_side=measured.image_side,
        input_side=round(math.sqrt(height * width)),
    )
    advice = advise(situation)
    return {
        "data": load.samples.url,
        "model": request["model"],
        "batch": load.batch,
        "threads": load.threads,
        "cpus": situation.cpus,
        "remote": load.samples.remote,
        "image_side": round(measured.image_side, 1),
        "input_side": situation.input_side,
        "stages": {name: _timing(timing) for name, timing in measured.stages.items()},
        "parse": None if measured.parse is None else _timing(measured.parse),
        "end_to_end": _timing(measured.end_to_end),
        "first_batch_seconds": round(measured.first_batch_seconds, 4),
        "held": measured.held,
        "unusable": measured.unusable,
        "bottleneck": advice.bottleneck,
        "advice": list(advice.sentences),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        **asdict(timing),
        "samples_per_second": round(timing.rate, 1),
        "cpu_us_per_sample": round(1e6 * timing.cpu_per_sample, 1),
        "bytes_per_second": round(timing.bytes / timing.seconds) if timing.seconds > 0 else 0,
    }


if __name__ == "__main__":
    sys.exit(answer(main, sys.argv[1:]))
