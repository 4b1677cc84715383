"""After the last step: evaluation, export to OpenCLIP's format, the loss curve, and the result file."""

from __future__ import annotations

import json
import time
from typing import Any

from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.eval.in_training import Evaluation
from clip_trainer.train.curve import loss_curve_png
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.export import export_weights, write_export
from clip_trainer.train.recording import progress
from clip_trainer.train.run import Run
from clipctl.contract import layout
from clipctl.contract.failpoints import failpoint


def finish(run: Run, evaluation: Evaluation) -> None:
    """Evaluate on all ranks, let rank 0 write the results, and leave together.

    All ranks wait for each other at the end: PyTorchJob calls an elastic job succeeded when the *first* worker exits
    with 0 (training-operator 1.9, pytorchjob_controller.go), so nobody may leave before the results are stored.
    """
    metrics = evaluation.at_the_end()
    failpoint("train.evaluated")
    weights = export_weights(run)
    results = run.group.on_first(lambda: write_results(run, metrics, weights))
    run.events.announce("finished", f"{run.spec.name}: finished after step {run.state.step}", results=results)
    if run.group.is_first:
        run.status.write(progress(run, "Succeeded", results["final_loss"], 0.0) | {"eta_seconds": 0.0})
    failpoint("train.finished")
    run.group.barrier()


def write_results(run: Run, metrics: dict[str, Any], weights: dict[str, Tensors]) -> dict[str, Any]:
    """Store export, loss curve and `results.json`; returns the latter."""
    run.events.flush()
    steps = trajectory(read_events(run.store))
    write_export(run, weights)
    failpoint("train.exported")
    run.store.write(layout.LOSS_CURVE, loss_curve_png(steps, run.spec.name))
    results = {
        "run": run.spec.name,
        "model": run.spec.model.name,
        "steps": run.state.step,
        "samples_consumed": run.state.samples_consumed,
        "final_loss": steps[-1]["loss"] if steps else None,
        "replaced": run.state.replaced,
        "goodput": round(run.state.goodput(time.time()), 4),
        "export": f"{run.store.root}/{layout.EXPORT}".rstrip("/"),
        "loss_curve": f"{run.store.root}/{layout.LOSS_CURVE}",
        "checkpoint": str(run.checkpointer.last) if run.checkpointer.last else None,
        **metrics,
    }
    run.store.write(layout.RESULTS, json.dumps(results, indent=2).encode())
    return results
