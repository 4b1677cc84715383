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
TRAIN_LOSS = Metric("clip_train_loss", "gauge", "What was minimised: the loss of the last global batch.")
TRAIN_LOSS_TERM = Metric(
    "clip_train_loss_term",
    "gauge",
    "Terms of the loss of the last global batch: contrastive_loss, caption_loss, distill_loss.",
    ("term",),
)
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
TRAIN_SOURCE_SAMPLES = Metric(
    "clip_train_source_samples_total",
    "counter",
    "Samples this rank trained on, by source, where there are several.",
    ("source",),
)
TRAIN_DATA_WAIT = Metric("clip_train_data_wait_ratio", "gauge", "Share of the last step spent waiting for its batch.")
TRAIN_DATA_BYTES = Metric("clip_train_data_read_bytes_total", "counter", "Bytes of samples read from storage.")
TRAIN_DATA_REQUESTS = Metric("clip_train_data_requests_total", "counter", "Reads that storage was asked for.")
TRAIN_DATA_RETRIES = Metric("clip_train_data_retries_total", "counter", "Reads that had to be repeated.")
TRAIN_DATA_CACHE = Metric(
    "clip_train_data_cache_lookups_total",
    "counter",
    "Lookups in the caches of blocks, by result: hit, miss.",
    ("result",),
)
TRAIN_DATA_MEMORY = Metric("clip_train_data_memory_bytes", "gauge", "Bytes of samples and batches in the making.")
TRAIN_DATA_STALLS = Metric("clip_train_data_stalls_total", "counter", "Waits for data longer than data.stall_seconds.")
TRAIN_CHECKPOINT_SECONDS = Metric(
    "clip_train_checkpoint_seconds", "histogram", "Seconds training waited for a checkpoint."
)
TRAIN_CHECKPOINT_STEP = Metric("clip_train_checkpoint_step", "gauge", "Step of the newest committed checkpoint.")
TRAIN_CHECKPOINT_FAILURES = Metric("clip_train_checkpoint_failures_total", "counter", "Checkpoints not stored.")
TRAIN_WORLD_SIZE = Metric("clip_train_world_size", "gauge", "Ranks in the current worker group.")
TRAIN_STRAGGLER = Metric(
    "clip_train_straggler_ratio", "gauge", "This rank's own time for a step (p95) divided by that of the median rank."
)
TRAIN_DIVERGENCES = Metric(
    "clip_train_divergences_total", "counter", "Times that ranks were found to have different weights."
)
TRAIN_GOODPUT = Metric(
    "clip_train_goodput_ratio", "gauge", "Seconds of kept steps divided by seconds since the run began."
)

TRAIN_RECOVERIES = Metric(
    "clip_train_recoveries_total",
    "counter",
    "Changes of the worker group that training went on from, by rung: regroup, shrink, grow, restart.",
    ("rung",),
)
TRAIN_RECOVERY_SECONDS = Metric(
    "clip_train_recovery_seconds",
    "histogram",
    "Seconds from the end of a worker group to the first step of the next one.",
    ("rung",),
)
TRAIN_RECOVERY_PHASE = Metric(
    "clip_train_recovery_phase_seconds",
    "gauge",
    "Where the seconds of the last recovery went: leave, form, synchronise, step.",
    ("phase",),
)
TRAIN_CHECKPOINT_STALL = Metric(
    "clip_train_checkpoint_stall_seconds", "histogram", "Seconds that training waited for a checkpoint to be staged."
)
TRAIN_SNAPSHOT_STALL = Metric(
    "clip_train_snapshot_stall_seconds",
    "histogram",
    "Seconds that training waited for a copy of its sharded state to the memory of nodes.",
)

TRAINER_METRICS = (
    TRAIN_STEP,
    TRAIN_TOTAL_STEPS,
    TRAIN_LOSS,
    TRAIN_LOSS_TERM,
    TRAIN_LEARNING_RATE,
    TRAIN_LOGIT_SCALE,
    TRAIN_GRADIENT_NORM,
    TRAIN_SAMPLES,
    TRAIN_RATE,
    TRAIN_STEP_SECONDS,
    TRAIN_REPLACED,
    TRAIN_SOURCE_SAMPLES,
    TRAIN_DATA_WAIT,
    TRAIN_DATA_BYTES,
    TRAIN_DATA_REQUESTS,
    TRAIN_DATA_RETRIES,
    TRAIN_DATA_CACHE,
    TRAIN_DATA_MEMORY,
    TRAIN_DATA_STALLS,
    TRAIN_CHECKPOINT_SECONDS,
    TRAIN_CHECKPOINT_STEP,
    TRAIN_CHECKPOINT_FAILURES,
    TRAIN_WORLD_SIZE,
    TRAIN_STRAGGLER,
    TRAIN_DIVERGENCES,
    TRAIN_GOODPUT,
    TRAIN_RECOVERIES,
    TRAIN_RECOVERY_SECONDS,
    TRAIN_RECOVERY_PHASE,
    TRAIN_CHECKPOINT_STALL,
    TRAIN_SNAPSHOT_STALL,
)


RUN_LABELS = ("namespace", "run")
RUN_STATE = Metric(
    "clip_run_state", "gauge", "1 for the state the run is in, 0 for the others.", (*RUN_LABELS, "state")
)
RUN_ATTEMPT = Metric("clip_run_attempt", "gauge", "Number of the newest attempt.", RUN_LABELS)
RUN_ATTEMPTS = Metric(
    "clip_run_attempts_total", "counter", "Attempts that ended without success, by cause.", (*RUN_LABELS, "cause")
)
RUN_WORKERS = Metric("clip_run_workers", "gauge", "Worker pods that are running.", RUN_LABELS)
RUN_WORKERS_WANTED = Metric("clip_run_workers_wanted", "gauge", "Worker pods the run asks for.", RUN_LABELS)
RUN_POD_RESTARTS = Metric(
    "clip_run_pod_restarts", "gauge", "Container restarts in the worker pods of the newest attempt.", RUN_LABELS
)
RUN_COMMITTED_STEP = Metric(
    "clip_run_last_committed_step", "gauge", "Step of the newest checkpoint that has a commit record.", RUN_LABELS
)
RUN_VERIFIED_STEP = Metric(
    "clip_run_last_verified_step", "gauge", "Step of the newest checkpoint the operator has verified.", RUN_LABELS
)
RUN_REJECTED = Metric(
    "clip_run_rejected_checkpoints", "gauge", "Damaged checkpoints passed over at the last resume.", RUN_LABELS
)
RUN_AGE = Metric("clip_run_start_time_seconds", "gauge", "Unix time of the first submission.", RUN_LABELS)
RUN_GOODPUT = Metric(
    "clip_run_goodput_ratio", "gauge", "Seconds of kept steps divided by seconds since the run began.", RUN_LABELS
)
RUN_ETA = Metric("clip_run_eta_seconds", "gauge", "Seconds to the end at the present rate.", RUN_LABELS)
OPERATOR_LEADER = Metric("clip_operator_leader", "gauge", "1 while this replica holds the Lease.")
OPERATOR_RECONCILE_SECONDS = Metric("clip_operator_reconcile_seconds", "histogram", "Seconds one reconcile took.")
OPERATOR_RECONCILE_ERRORS = Metric(
    "clip_operator_reconcile_errors_total", "counter", "Reconciles that failed and are tried again.", ("reason",)
)
OPERATOR_QUEUE_DEPTH = Metric("clip_operator_queue_depth", "gauge", "Runs that wait to be reconciled.")
OPERATOR_WATCH_RESTARTS = Metric(
    "clip_operator_watch_restarts_total", "counter", "Watches that had to start over, by resource.", ("resource",)
)

OPERATOR_METRICS = (
    RUN_STATE,
    RUN_ATTEMPT,
    RUN_ATTEMPTS,
    RUN_WORKERS,
    RUN_WORKERS_WANTED,
    RUN_POD_RESTARTS,
    RUN_COMMITTED_STEP,
    RUN_VERIFIED_STEP,
    RUN_REJECTED,
    RUN_AGE,
    RUN_GOODPUT,
    RUN_ETA,
    OPERATOR_LEADER,
    OPERATOR_RECONCILE_SECONDS,
    OPERATOR_RECONCILE_ERRORS,
    OPERATOR_QUEUE_DEPTH,
    OPERATOR_WATCH_RESTARTS,
)
