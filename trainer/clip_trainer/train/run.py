"""Putting a run together: group, data, model, optimiser, state; then the loop; then evaluation and export."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from functools import partial

import torch

from clip_trainer.checkpoint.incarnation import allocate
from clip_trainer.checkpoint.restore import Restored, restore
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.save import Checkpointer, Identity
from clip_trainer.checkpoint.tensors import Tensors, set_optimizer_step, state_tensors
from clip_trainer.config import RunConfig
from clip_trainer.data.index import Dataset, open_dataset
from clip_trainer.data.lanes import SampleOrder
from clip_trainer.data.loader import BatchLoader
from clip_trainer.elastic.progress import report_progress
from clip_trainer.loss import ContrastiveLoss
from clip_trainer.model import CLIP, create_model, get_precision
from clip_trainer.optim import Schedule
from clip_trainer.text import BpeTokenizer
from clip_trainer.train.events import EventLog
from clip_trainer.train.group import Group
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner
from clip_trainer.train.optimization import optimizer_of, schedule_of, steps_of
from clip_trainer.train.state import TrainState
from clip_trainer.train.status import StatusFile
from clip_trainer.train.step import TrainStep
from clip_trainer.vision import OPENAI_PREPROCESS, UndecodableImage, decode_image, train_transform
from clipctl.contract import metric_names
from clipctl.contract.commits import Rejection
from clipctl.contract.spec import RunSpec, lane_count
from clipctl.contract.store import ObjectStore, open_store


@dataclass
class Run:
    """Everything the loop works with. Built by `prepare`; see there for the order of things."""

    config: RunConfig
    group: Group
    store: ObjectStore
    model: CLIP
    optimizer: torch.optim.Optimizer
    parts: dict[str, Tensors]
    step: TrainStep
    schedule: Schedule
    state: TrainState
    total_steps: int
    incarnation: int
    dataset: Dataset
    order: SampleOrder
    checkpointer: Checkpointer
    events: EventLog
    status: StatusFile
    metrics: TrainerMetrics

    @property
    def spec(self) -> RunSpec:
        """The run's specification."""
        return self.config.spec


def prepare(config: RunConfig, group: Group) -> Run:
    """Build the run and bring it to the newest verified state. Collective.

    The order matters: storage and data are checked before anything expensive; the incarnation is allocated before the
    checkpoint is chosen, so that an older group that is still alive can no longer commit.
    """
    spec = config.spec
    store = open_store(spec.root)
    dataset = share_dataset(spec.data.train, group)
    dataset.require("image", "caption")
    incarnation = int(
        group.on_first(lambda: allocate(store, attempt=config.attempt, world=group.world, now=time.time()))
    )
    events = EventLog(store if group.is_first else None, incarnation, time.time)
    model = create_model(spec.model.name, spec.model.precision, spec.train.seed, device=group.device)
    optimizer = optimizer_of(spec, model)
    parts = state_tensors(model, optimizer)
    identity = _identity(config, dataset, incarnation)
    restored = restore(store, group, parts, identity.training_digest, partial(_report_rejection, events))
    state = _resume(restored, optimizer)
    total_steps = steps_of(spec, dataset.index.samples)
    order = SampleOrder(
        dataset.index.counts,
        seed=spec.train.seed,
        lanes=lane_count(spec.train.global_batch, spec.max_world, spec.data.lanes),
        shuffle_block=spec.data.shuffle_block,
    )
    run = Run(
        config=config,
        group=group,
        store=store,
        model=model,
        optimizer=optimizer,
        parts=parts,
        step=_step(spec, model, optimizer, group),
        schedule=schedule_of(spec, dataset.index.samples),
        state=state,
        total_steps=total_steps,
        incarnation=incarnation,
        dataset=dataset,
        order=order,
        checkpointer=_checkpointer(spec, group, store, events, identity, restored),
        events=events,
        status=StatusFile(store if group.is_first else None, time.time),
        metrics=TrainerMetrics(),
    )
    _announce(run, restored)
    return run


def share_dataset(url: str, group: Group) -> Dataset:
    """Open a data set on rank 0 (which checks or builds its index) and give the index to the others."""
    opened: list[Dataset] = []

    def read() -> str:
        opened.append(open_dataset(url))
        return opened[0].index.to_json().decode()

    payload: str = group.on_first(read)
    return opened[0] if opened else Dataset.attach(url, payload.encode())


def open_loader(run: Run) -> BatchLoader:
    """The rank's batches from the current position to the end of the run."""
    spec, size = run.spec, run.model.config.vision.image_hw[0]
    return BatchLoader(
        run.dataset,
        run.order,
        transform=lambda image, key: train_transform(image, size, key),
        decode=partial(decode_image, max_pixels=spec.data.max_pixels),
        tokenize=BpeTokenizer(run.model.config.text.context_length),
        image_size=(size, size),
        global_batch=spec.train.global_batch,
        rank=run.group.rank,
        world=run.group.world,
        start_position=run.state.samples_consumed,
        stop_position=run.total_steps * spec.train.global_batch,
        threads=spec.data.threads,
        prefetch_batches=spec.data.prefetch_batches,
        undecodable=(UndecodableImage,),
    )


def _step(spec: RunSpec, model: CLIP, optimizer: torch.optim.Optimizer, group: Group) -> TrainStep:
    precision = get_precision(spec.model.precision)
    encoder = ModelEncoder(Runner(model, precision, OPENAI_PREPROCESS, group.device))
    objective = ModelObjective(encoder, group, ContrastiveLoss(), LossWeights(), micro_batch=spec.train.micro_batch)
    return TrainStep(model, optimizer, group, objective, grad_clip_norm=spec.train.grad_clip_norm)


def _identity(config: RunConfig, dataset: Dataset, incarnation: int) -> Identity:
    return Identity(
        run=config.spec.name,
        attempt=config.attempt,
        incarnation=incarnation,
        spec_digest=config.spec_digest,
        training_digest=config.spec.training_digest(dataset.index.identity),
        writer=f"{socket.gethostname()}:{os.getpid()}",
    )


def _checkpointer(
    spec: RunSpec, group: Group, store: ObjectStore, events: EventLog, identity: Identity, restored: Restored | None
) -> Checkpointer:
    def report(message: str) -> None:
        events.announce("checkpoint_warning", message)

    retention = Retention(spec.checkpoint.keep, report)
    return Checkpointer(store, group, identity, retention, time.time, restored.checkpoint if restored else None)


def _resume(restored: Restored | None, optimizer: torch.optim.Optimizer) -> TrainState:
    if restored is None:
        return TrainState(first_started_at=time.time())
    state = TrainState.from_json(restored.state["train"])
    set_optimizer_step(optimizer, state.step)
    return state


def _report_rejection(events: EventLog, rejection: Rejection) -> None:
    events.announce(
        "checkpoint_rejected",
        f"checkpoint {rejection.checkpoint} is damaged and is not used: {rejection.problem}",
        checkpoint=str(rejection.checkpoint),
    )


def _announce(run: Run, restored: Restored | None) -> None:
    source = f"resumed from verified checkpoint {restored.checkpoint}" if restored else "started from the beginning"
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
