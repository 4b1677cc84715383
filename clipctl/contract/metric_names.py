"""Names, types, labels and help of every Prometheus metric of trainer and operator.

Dashboards, alerts and docs are checked against this table; trainer and operator build their metrics from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric: `kind` as Prometheus has it, labels in order, help with the unit."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


TRAIN_STEP = Metric("clip_train_step", "gauge", "Optimiser steps done on the current trajectory.")
TRAIN_TOTAL_STEPS = Metric("clip_train_total_steps", "gauge", "Optimiser steps the run will do.")
TRAIN_LOSS = Metric("clip_train_loss", "gauge", "Contrastive loss of the last global batch.")
TRAIN_LEARNING_RATE = Metric("clip_train_learning_rate", "gauge", "Learning rate of the last step.")
TRAIN_LOGIT_SCALE = Metric("clip_train_logit_scale", "gauge", "Temperature factor exp(logit_scale).")
TRAIN_GRADIENT_NORM = Metric("clip_train_gradient_norm", "gauge", "Global L2 norm of the gradient before clipping.")
TRAIN_SAMPLES = Metric("clip_train_samples_total", "counter", "Samples this rank trained on.")
TRAIN_RATE = Metric("clip_train_samples_per_second", "gauge", "Samples per second of the whole run.")
TRAIN_STEP_SECONDS = Metric(
    "clip_train_step_seconds", "histogram", "Seconds of a step by phase: data, compute, reduce, optimizer.", ("phase",)
)
TRAIN_REPLACED = Metric(
    "clip_train_replaced_samples_total", "counter", "Undecodable samples that were replaced, by reason.", ("reason",)
)
TRAIN_CHECKPOINT_SECONDS = Metric("clip_train_checkpoint_seconds", "histogram", "Seconds a checkpoint held up training.")
TRAIN_CHECKPOINT_STEP = Metric("clip_train_checkpoint_step", "gauge", "Step of the newest committed checkpoint.")
TRAIN_CHECKPOINT_FAILURES = Metric("clip_train_checkpoint_failures_total", "counter", "Checkpoints not stored.")
TRAIN_WORLD_SIZE = Metric("clip_train_world_size", "gauge", "Ranks in the current worker group.")
TRAIN_GOODPUT = Metric(
    "clip_train_goodput_ratio", "gauge", "Seconds of kept steps divided by seconds since the run began."
)

TRAINER_METRICS = (
    TRAIN_STEP,
    TRAIN_TOTAL_STEPS,
    TRAIN_LOSS,
    TRAIN_LEARNING_RATE,
    TRAIN_LOGIT_SCALE,
    TRAIN_GRADIENT_NORM,
    TRAIN_SAMPLES,
    TRAIN_RATE,
    TRAIN_STEP_SECONDS,
    TRAIN_REPLACED,
    TRAIN_CHECKPOINT_SECONDS,
    TRAIN_CHECKPOINT_STEP,
    TRAIN_CHECKPOINT_FAILURES,
    TRAIN_WORLD_SIZE,
    TRAIN_GOODPUT,
)
