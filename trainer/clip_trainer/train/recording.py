"""What a run says about each step: in the ledger, in status.json and in its metrics."""

from __future__ import annotations

import math
import time
from typing import Any

from clip_trainer.data.loading.batch import Batch
from clip_trainer.train.run import Run
from clip_trainer.train.sources import record_sources
from clip_trainer.train.step import StepResult
from clipctl.contract import metric_names


def record(run: Run, batch: Batch, result: StepResult, lr: float, rate: float, checksum: int | None = None) -> None:
    """Write the step into the ledger, the status file and the metrics; of the weights a checksum, if there is one."""
    state = run.state
    run.events.write(
        "step",
        step=state.step,
        attempt=run.config.attempt,
        first=batch.position_start,
        end=batch.position_end,
        digest=result.digest,
        loss=finite(result.loss),
        losses={name: finite(value) for name, value in result.losses.items()},
        lr=lr,
        gradient_norm=finite(result.gradient_norm),
        replaced=result.replaced,
        world=run.group.world,
        **record_sources(run, batch),
        **({"skipped": result.skipped} if result.skipped is not None else {}),
        **({"checksum": checksum} if checksum is not None else {}),
    )
    if result.replaced:  # the same on every rank, so all of them come here
        record_replaced(run, batch)
    run.events.flush_if_due()
    if run.group.is_first:
        run.status.write_if_due(lambda: progress(run, "Running", finite(result.loss), rate))
    local = batch.counts[run.group.rank]
    run.metrics.observe_step(result, step=state.step, samples=local, rate=rate, learning_rate=lr)
    run.metrics[metric_names.TRAIN_GOODPUT].set(state.goodput(time.time()))
    run.metrics[metric_names.TRAIN_LOGIT_SCALE].set(float(run.model.logit_scale.detach().exp()))


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def record_replaced(run: Run, batch: Batch) -> None:
    """Write the replaced samples of all ranks into the ledger. Collective."""
    for replacement in batch.replaced:
        run.metrics[metric_names.TRAIN_REPLACED].labels(replacement.reason.partition(":")[0]).inc()
    for replaced in run.group.gather_json([replacement._asdict() for replacement in batch.replaced]):
        for fields in replaced:
            run.events.write("replaced", step=run.state.step, **fields)


def progress(run: Run, state: str, loss: float | None, rate: float) -> dict[str, Any]:
    """The fields of status.json."""
    remaining = (run.total_steps - run.state.step) * run.spec.train.global_batch
    return {
        "state": state,
        "step": run.state.step,
        "total_steps": run.total_steps,
        "samples_consumed": run.state.samples_consumed,
        "epoch": round(run.state.samples_consumed / run.epoch_samples, 3),
        "loss": loss,
        "samples_per_second": round(rate, 2),
        "eta_seconds": round(remaining / rate, 1) if rate > 0 else None,
        "world_size": run.group.world,
        "incarnation": run.incarnation,
        "attempt": run.config.attempt,
        "replaced": run.state.replaced,
        "skipped": run.trainable.guard.skipped,
        "goodput": round(run.state.goodput(time.time()), 4),
        "recoveries": run.state.recoveries,
        "lost_seconds": run.state.lost_seconds,
        "checkpoint": str(run.checkpointer.last) if run.checkpointer.last else None,
    }
