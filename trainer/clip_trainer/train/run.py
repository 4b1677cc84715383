"""Putting a run together: group, data, model, optimiser, state; then the loop; then evaluation and export."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from clip_trainer.checkpoint.incarnation import allocate
from clip_trainer.checkpoint.restore import Restored
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.save import Checkpointer, Identity
from clip_trainer.config import RunConfig
from clip_trainer.data.order.base import Order
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.elastic.progress import report_progress
from clip_trainer.model import ClipModel, get_precision
from clip_trainer.optim import LossScaler, Schedule
from clip_trainer.train.build import build_model
from clip_trainer.train.ema import WeightAverage
from clip_trainer.train.events import EventLog
from clip_trainer.train.group import Group
from clip_trainer.train.guard import Guard
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.objective_build import build_objective
from clip_trainer.train.openclip_state import adopt, check_restored
from clip_trainer.train.optimization import optimizer_of, schedule_of, steps_of
from clip_trainer.train.patch_dropout import PatchDropoutSchedule
from clip_trainer.train.sample_order import epoch_of, order_of
from clip_trainer.train.shared_dataset import share_training_data
from clip_trainer.train.state import TrainState
from clip_trainer.train.status import StatusFile
from clip_trainer.train.step import TrainStep
from clip_trainer.train.trainable import Trainable
from clip_trainer.vision import Transforms, transforms_for
from clipctl.contract import metric_names
from clipctl.contract.commits import Rejection
from clipctl.contract.layout import COMMITS, CheckpointId
from clipctl.contract.spec import RunSpec
from clipctl.contract.store import ObjectStore, open_store


@dataclass
class Run:
    """Everything the loop works with. Built by `prepare`; see there for the order of things."""

    config: RunConfig
    group: Group
    store: ObjectStore
    identity: Identity
    trainable: Trainable
    step: TrainStep
    schedule: Schedule
    patch_dropout: PatchDropoutSchedule
    state: TrainState
    total_steps: int
    incarnation: int
    dataset: JoinedSamples
    order: Order
    checkpointer: Checkpointer
    events: EventLog
    status: StatusFile
    metrics: TrainerMetrics

    @property
    def spec(self) -> RunSpec:
        """The run's specification."""
        return self.config.spec

    @property
    def model(self) -> ClipModel:
        """The model, with the weights as they are trained."""
        return self.trainable.model

    @property
    def epoch_samples(self) -> int:
        """Samples of one epoch."""
        return epoch_of(self.spec, self.order)

    @property
    def transforms(self) -> Transforms:
        """How images become the model's input."""
        return transforms_for(self.model, self.spec.model.preprocess, self.spec.data.augment)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Inside this context the model has the averaged weights, if the run averages them (`train.ema`)."""
        average = self.trainable.average
        return average.in_place() if average is not None else nullcontext()

    def restore(self, wanted: Callable[[CheckpointId], bool] = lambda _: True) -> Restored | None:
        """Bring weights, optimiser and so on to the newest intact checkpoint that is wanted. Collective."""
        reject = partial(_report_rejection, self.events)
        restored = self.trainable.restore(self.store, self.group, self.identity.training_digest, reject, wanted)
        if restored is not None and self.spec.model.quick_gelu is None:
            check_restored(restored.state, self.trainable, str(restored.checkpoint))
        return restored


def prepare(config: RunConfig, group: Group) -> Run:
    """Build the run and bring it to the newest verified state. Collective.

    The order matters: storage and data are checked before anything expensive; the incarnation is allocated before the
    checkpoint is chosen, so that an older group that is still alive can no longer commit.
    """
    spec = config.spec
    store = open_store(spec.root)
    dataset = share_training_data(spec, group)
    dataset.require("image", "caption")
    incarnation = int(
        group.on_first(lambda: allocate(store, attempt=config.attempt, world=group.world, now=time.time()))
    )
    events = EventLog(store if group.is_first else None, incarnation, time.time)
    fresh = bool(group.on_first(lambda: not any(store.list(COMMITS))))
    model = build_model(spec.model, spec.train.loss, spec.train.seed, group, fresh=fresh)
    trainable = _trainable(spec, model)
    order = order_of(spec, dataset)
    epoch = epoch_of(spec, order)
    run = Run(
        config=config,
        group=group,
        store=store,
        identity=(identity := _identity(config, dataset, incarnation)),
        trainable=trainable,
        step=_step(spec, trainable, group),
        schedule=schedule_of(spec, epoch),
        patch_dropout=PatchDropoutSchedule(spec.train.patch_dropout, model),
        state=TrainState(first_started_at=time.time()),
        total_steps=steps_of(spec, epoch),
        incarnation=incarnation,
        dataset=dataset,
        order=order,
        checkpointer=_checkpointer(spec, group, store, events, identity),
        events=events,
        status=StatusFile(store if group.is_first else None, time.time),
        metrics=TrainerMetrics(),
    )
    restored = run.restore()
    if restored is not None:
        run.state = TrainState.from_json(restored.state["train"])
        run.checkpointer.continue_from(restored.checkpoint)
        _announce(run, f"resumed from verified checkpoint {restored.checkpoint}", restored)
    elif spec.checkpoint.resume_from is not None:
        _announce(run, _adopt(run, spec.checkpoint.resume_from), None)
    else:
        _announce(run, "started from the beginning", None)
    return run


def _adopt(run: Run, location: str) -> str:
    """Take over a training checkpoint of OpenCLIP; returns what to tell the user."""
    check = run.spec.model.quick_gelu is None
    position = adopt(location, run.trainable, run.group, check_quick_gelu=check)
    run.state.step = position.step
    run.state.samples_consumed = position.step * run.spec.train.global_batch
    return f"continued from {location} (epoch {position.epoch})"


def _trainable(spec: RunSpec, model: ClipModel) -> Trainable:
    scaled = get_precision(spec.model.precision).needs_scaler
    return Trainable(
        model,
        optimizer_of(spec, model),
        spec.train.optimizer,
        Guard(spec.train.guard),
        WeightAverage(model, spec.train.ema) if spec.train.ema is not None else None,
        LossScaler() if scaled else None,
    )


def _step(spec: RunSpec, trainable: Trainable, group: Group) -> TrainStep:
    precision = get_precision(spec.model.precision)
    preprocess = transforms_for(trainable.model, spec.model.preprocess).preprocess
    objective = build_objective(spec, trainable.model, group, precision, preprocess)
    return TrainStep(
        trainable.model,
        trainable.optimizer,
        group,
        objective,
        trainable.guard,
        grad_clip_norm=spec.train.grad_clip_norm,
        scaler=trainable.scaler,
    )


def _identity(config: RunConfig, dataset: JoinedSamples, incarnation: int) -> Identity:
    return Identity(
        run=config.spec.name,
        attempt=config.attempt,
        incarnation=incarnation,
        spec_digest=config.spec_digest,
        training_digest=config.spec.training_digest(dataset.identity),
        writer=f"{socket.gethostname()}:{os.getpid()}",
    )


def _checkpointer(
    spec: RunSpec, group: Group, store: ObjectStore, events: EventLog, identity: Identity
) -> Checkpointer:
    def report(message: str) -> None:
        events.announce("checkpoint_warning", message)

    retention = Retention(spec.checkpoint.keep, report)
    return Checkpointer(store, group, identity, retention, time.time, None)


def _report_rejection(events: EventLog, rejection: Rejection) -> None:
    events.announce(
        "checkpoint_rejected",
        f"checkpoint {rejection.checkpoint} is damaged and is not used: {rejection.problem}",
        checkpoint=str(rejection.checkpoint),
    )


def _announce(run: Run, source: str, restored: Restored | None) -> None:
    run.events.announce(
        "started",
        f"{run.spec.name}: {source}; step {run.state.step} of {run.total_steps}, {run.group.world} ranks, "
        f"incarnation {run.incarnation}",
        step=run.state.step,
        samples_consumed=run.state.samples_consumed,
        world=run.group.world,
        attempt=run.config.attempt,
        resumed_from=str(restored.checkpoint) if restored else None,
    )
    run.metrics[metric_names.TRAIN_WORLD_SIZE].set(run.group.world)
    run.metrics[metric_names.TRAIN_TOTAL_STEPS].set(run.total_steps)
    run.metrics[metric_names.TRAIN_STEP].set(run.state.step)
    port = run.metrics.serve(run.spec.metrics.port + run.group.local_rank, run.spec.scale.devices_per_node)
    run.events.write("metrics", port=port)
    report_progress(run.state.step)
