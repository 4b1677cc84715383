"""Putting a run together: data, model, optimiser, loss. No state yet: that comes from `synchronise`."""

from __future__ import annotations

import importlib
import os
import socket
import time
from functools import partial

from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.save import Checkpointer, Identity
from clip_trainer.config import RunConfig
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.model import ClipModel, get_precision
from clip_trainer.optim import LossScaler
from clip_trainer.parallel.strategy import Parallel, parallel_of
from clip_trainer.train.build import build_model
from clip_trainer.train.ema import WeightAverage
from clip_trainer.train.events import EventLog
from clip_trainer.train.group import Group
from clip_trainer.train.guard import Guard
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.objective_build import build_objective
from clip_trainer.train.optimization import optimizer_of, schedule_of, steps_of
from clip_trainer.train.patch_dropout import PatchDropoutSchedule
from clip_trainer.train.run import Run
from clip_trainer.train.sample_order import epoch_of, order_of
from clip_trainer.train.shared_dataset import share_training_data
from clip_trainer.train.state import TrainState
from clip_trainer.train.status import StatusFile
from clip_trainer.train.step import TrainStep
from clip_trainer.train.trainable import Trainable
from clip_trainer.vision import transforms_for
from clipctl.contract.failpoints import failpoint
from clipctl.contract.layout import COMMITS
from clipctl.contract.spec import RunSpec
from clipctl.contract.store import ObjectStore, open_store


def prepare(config: RunConfig, group: Group) -> Run:
    """Build the run. Collective over the group's ranks; a process that joins others later does it alone.

    Storage and data are checked before anything expensive.

    Raises:
        ClipError: something in run.yaml does not fit, or storage, data or weights cannot be had.
    """
    # torch imports this, and sympy with it, in the first backward pass: seconds for which the whole group would wait.
    importlib.import_module("torch.fx.experimental.symbolic_shapes")
    spec = config.spec
    store = open_store(spec.root)
    dataset = share_training_data(spec, group)
    failpoint("train.data_opened")
    dataset.require("image", "caption")
    fresh = bool(group.on_first(lambda: not any(store.list(COMMITS))))
    model = build_model(spec.model, spec.train.loss, spec.train.seed, group, fresh=fresh)
    parallel = parallel_of(spec.train.parallel, group)
    parallel.adopt(model)
    trainable = _trainable(spec, model)
    order = order_of(spec, dataset)
    epoch = epoch_of(spec, order)
    events = EventLog(store, time.time)
    checkpointer = _checkpointer(spec, group, store, events, _identity(config, dataset))
    return Run(
        config=config,
        group=group,
        store=store,
        trainable=trainable,
        parallel=parallel,
        step=_step(spec, trainable, group, checkpointer, parallel),
        schedule=schedule_of(spec, epoch),
        patch_dropout=PatchDropoutSchedule(spec.train.patch_dropout, model),
        state=TrainState(first_started_at=time.time()),
        total_steps=steps_of(spec, epoch),
        dataset=dataset,
        order=order,
        checkpointer=checkpointer,
        events=events,
        status=StatusFile(store, time.time),
        metrics=TrainerMetrics(),
    )


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


def _step(
    spec: RunSpec, trainable: Trainable, group: Group, checkpointer: Checkpointer, parallel: Parallel
) -> TrainStep:
    precision = get_precision(spec.model.precision)
    preprocess = transforms_for(trainable.model, spec.model.preprocess).preprocess
    objective = build_objective(spec, trainable.model, group, precision, preprocess, equal_pieces=parallel.equal_pieces)
    return TrainStep(
        trainable.model,
        trainable.optimizer,
        group,
        objective,
        trainable.guard,
        grad_clip_norm=spec.train.grad_clip_norm,
        scaler=trainable.scaler,
        before_update=checkpointer.before_update,
        parallel=parallel,
    )


def _identity(config: RunConfig, dataset: JoinedSamples) -> Identity:
    """Who writes checkpoints; the incarnation follows when there is one."""
    return Identity(
        run=config.spec.name,
        attempt=config.attempt,
        incarnation=0,
        spec_digest=config.spec_digest,
        training_digest=config.spec.training_digest(dataset.identity),
        writer=f"{socket.gethostname()}:{os.getpid()}",
    )


def _checkpointer(
    spec: RunSpec, group: Group, store: ObjectStore, events: EventLog, identity: Identity
) -> Checkpointer:
    report = partial(_warn, events)
    retention = Retention(spec.checkpoint.keep_policy, report)
    # The ledger of a committed step is never missing.
    return Checkpointer(store, group, identity, retention, time.time, before_commit=events.flush)


def _warn(events: EventLog, message: str) -> None:
    events.tell("checkpoint_warning", message)
