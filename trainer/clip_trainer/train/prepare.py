"""Putting a run together: data, model, optimiser, loss. No state yet: that comes from `synchronise`."""

from __future__ import annotations

import importlib
import os
import socket
import time
from functools import partial
from typing import NamedTuple

from clip_trainer.checkpoint.memory_shares import MemoryShares
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.save import Checkpointer, Identity
from clip_trainer.config import RunConfig
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.elastic.member_settings import ENV_NODE
from clip_trainer.elastic.node_memory import node_memory
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
    spec = config.spec
    _import_early(spec)
    store = open_store(spec.root)
    dataset = share_training_data(spec, group)
    failpoint("train.data_opened")
    dataset.require("image", "caption")
    events = EventLog(store, time.time)
    checkpointer = _checkpointer(spec, group, store, events, _identity(config, dataset))
    built = _build(spec, group, store, checkpointer)
    order = order_of(spec, dataset)
    epoch = epoch_of(spec, order)
    return Run(
        config=config,
        group=group,
        store=store,
        trainable=built.trainable,
        parallel=built.parallel,
        step=built.step,
        schedule=schedule_of(spec, epoch),
        patch_dropout=built.patch_dropout,
        state=TrainState(first_started_at=time.time()),
        total_steps=steps_of(spec, epoch),
        dataset=dataset,
        order=order,
        checkpointer=checkpointer,
        events=events,
        status=StatusFile(store, time.time),
        metrics=TrainerMetrics(),
        node=os.environ.get(ENV_NODE) or socket.gethostname(),
        memory=_memory(spec),
    )


def _import_early(spec: RunSpec) -> None:
    """Import now what takes seconds, for which the whole group would have to wait later.

    torch imports the first, and sympy with it, in the first backward pass; a process that is still alone would import
    FSDP when it joins, and `torch._dynamo` with the first DTensor.
    """
    importlib.import_module("torch.fx.experimental.symbolic_shapes")
    if spec.train.parallel == "fsdp":
        importlib.import_module("clip_trainer.parallel.sharded")
        importlib.import_module("torch._dynamo")


def rebuild(run: Run) -> None:
    """Build model, optimiser and so on anew, for the group as it is now. They have no state. Collective."""
    run.whole = run.touched = False
    if hasattr(run, "parallel"):  # else the last group ended before its model was built
        run.parallel.release()
    for name in _Built._fields:
        vars(run).pop(name, None)  # frees their memory before the new ones need it
    built = _build(run.spec, run.group, run.store, run.checkpointer)
    for name, value in built._asdict().items():
        setattr(run, name, value)


class _Built(NamedTuple):
    """What belongs to one group, if the model is shared out among its ranks."""

    trainable: Trainable
    parallel: Parallel
    step: TrainStep
    patch_dropout: PatchDropoutSchedule


def _build(spec: RunSpec, group: Group, store: ObjectStore, checkpointer: Checkpointer) -> _Built:
    fresh = bool(group.on_first(lambda: not any(store.list(COMMITS))))
    model = build_model(spec.model, spec.train.loss, spec.train.seed, group, fresh=fresh)
    parallel = parallel_of(spec.train.parallel, group)
    parallel.adopt(model)
    trainable = _trainable(spec, model)
    step = _step(spec, trainable, group, checkpointer, parallel)
    return _Built(trainable, parallel, step, PatchDropoutSchedule(spec.train.patch_dropout, model))


def _memory(spec: RunSpec) -> MemoryShares | None:
    """Where to leave copies of the state: only a sharded one needs them, and only a launcher's worker has a place."""
    folder = node_memory()
    wanted = spec.train.parallel == "fsdp" and spec.checkpoint.memory_steps is not None
    return MemoryShares(folder) if wanted and folder is not None else None


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
