"""What is logged, under OpenCLIP's tag names (open_clip_train/train.py and zero_shot.py of 3.3.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipctl.contract.sections import EvalSection

Scalars = dict[str, float]

_NOT_LOGGED = ("skipped", "num_captions")


def train_scalars(
    losses: Mapping[str, float],
    *,
    loss: float,
    learning_rate: float,
    logit_scale: float,
    data_seconds: float,
    batch_seconds: float,
    samples: int,
    world: int,
) -> Scalars:
    """The `train/` tags of one step.

    Args:
        losses: terms of the loss by name, as `contrastive_loss`.
        loss: their sum.
        learning_rate: of the step.
        logit_scale: the factor of similarities (not its logarithm).
        data_seconds: how long the step waited for data.
        batch_seconds: how long the whole step took, waiting included.
        samples: global batch.
        world: number of ranks.
    """
    rate = samples / batch_seconds if batch_seconds > 0 else 0.0
    values = {
        "data_time": data_seconds,
        "batch_time": batch_seconds,
        "samples_per_second": rate,
        "samples_per_second_per_gpu": rate / world,
        "scale": logit_scale,
        "lr": learning_rate,
        **losses,
        "loss": loss,
    }
    return {f"train/{name}": float(value) for name, value in values.items()}


def evaluation_scalars(section: EvalSection, results: Mapping[str, Any], epoch: float) -> Scalars:
    """The `val/` tags of an evaluation.

    A set of `eval.zero_shot_sets` is logged as `val/<its name>-zeroshot-val-top1`: call ImageNet-V2 `imagenetv2` and
    the tag is OpenCLIP's. `eval.zero_shot` is `imagenet` if its classes are, and has no prefix otherwise.

    Args:
        section: what was asked for.
        results: what `eval.evaluate.Evaluator.run` found.
        epoch: passes over the training data so far.
    """
    values: Scalars = {}
    if "zero_shot" in results:
        assert section.zero_shot is not None
        prefix = "imagenet-" if section.zero_shot.classes == "imagenet" else ""
        values |= _accuracies(prefix, results["zero_shot"])
    for name, found in results.get("zero_shot_sets", {}).items():
        values |= _accuracies(f"{name}-", found)
    values |= {name: value for name, value in results.get("retrieval", {}).items() if name not in _NOT_LOGGED}
    if not values:
        return {}
    return {f"val/{name}": float(value) for name, value in {**values, "epoch": epoch}.items()}


def _accuracies(prefix: str, found: Mapping[str, float]) -> Scalars:
    return {f"{prefix}zeroshot-val-{top}": found[top] for top in ("top1", "top5")}
