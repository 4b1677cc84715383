"""A run as one process sees it: everything the loop works with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from clip_trainer.checkpoint.memory_shares import MemoryShares
from clip_trainer.checkpoint.restore import Restored
from clip_trainer.checkpoint.save import Checkpointer
from clip_trainer.config import RunConfig
from clip_trainer.data.order.base import Order
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.model import ClipModel
from clip_trainer.optim import Schedule
from clip_trainer.parallel.strategy import Parallel
from clip_trainer.train.events import EventLog
from clip_trainer.train.group import Group
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.openclip_state import check_restored
from clip_trainer.train.patch_dropout import PatchDropoutSchedule
from clip_trainer.train.sample_order import epoch_of
from clip_trainer.train.state import TrainState
from clip_trainer.train.status import StatusFile
from clip_trainer.train.step import TrainStep
from clip_trainer.train.trainable import Trainable
from clip_trainer.vision import Transforms, transforms_for
from clipctl.contract.commits import Rejection
from clipctl.contract.layout import CheckpointId
from clipctl.contract.spec import RunSpec
from clipctl.contract.store import ObjectStore


@dataclass
class Run:
    """Everything the loop works with. Built once by `prepare`; it outlives changes of the group.

    Attributes:
        node: name of this process's node.
        memory: where it leaves copies of a sharded state for its successors; None if it makes none.
        incarnation: number of the worker group that may write to storage; 0 before there is one.
        generation: number of the last generation that this process has agreed on a state in; 0 before the first.
        whole: the state is that after `state.step`. False before there is a state, and after a broken update.
        touched: this process has trained, so its weights are no longer those that the run begins with.
    """

    config: RunConfig
    group: Group
    store: ObjectStore
    trainable: Trainable
    parallel: Parallel
    step: TrainStep
    schedule: Schedule
    patch_dropout: PatchDropoutSchedule
    state: TrainState
    total_steps: int
    dataset: JoinedSamples
    order: Order
    checkpointer: Checkpointer
    events: EventLog
    status: StatusFile
    metrics: TrainerMetrics
    node: str = "node"
    memory: MemoryShares | None = None
    incarnation: int = 0
    generation: int = 0
    whole: bool = False
    touched: bool = False

    @property
    def spec(self) -> RunSpec:
        """The run's specification."""
        return self.config.spec

    @property
    def sharded(self) -> bool:
        """Whether each rank has but a part of the state, as soon as there are several."""
        return self.spec.train.parallel == "fsdp"

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
        digest = self.checkpointer.identity.training_digest
        restored = self.trainable.restore(self.store, self.group, digest, reject, wanted)
        if restored is not None and self.spec.model.quick_gelu is None:
            check_restored(restored.state, self.trainable, str(restored.checkpoint))
        return restored


def _report_rejection(events: EventLog, rejection: Rejection) -> None:
    events.announce(
        "checkpoint_rejected",
        f"checkpoint {rejection.checkpoint} is damaged and is not used: {rejection.problem}",
        checkpoint=str(rejection.checkpoint),
    )
