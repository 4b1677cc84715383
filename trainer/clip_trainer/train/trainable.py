"""All that training changes, except the position in the data: what a checkpoint keeps and a return to one restores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from clip_trainer.checkpoint import optimizer_state
from clip_trainer.checkpoint.optimizer_state import OptimizerState
from clip_trainer.checkpoint.restore import Restored, restore
from clip_trainer.checkpoint.restore_sharded import restore_sharded
from clip_trainer.checkpoint.rows import Shapes
from clip_trainer.checkpoint.tensors import AVERAGE, OPTIMIZER, WEIGHTS, Tensors, copy_into
from clip_trainer.model import ClipModel
from clip_trainer.optim import LossScaler
from clip_trainer.parallel.pieces import any_sharded, state_like
from clip_trainer.train.ema import WeightAverage
from clip_trainer.train.group import Group
from clip_trainer.train.guard import Guard
from clipctl.contract.commits import Rejection
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore


@dataclass
class Trainable:
    """The changing parts of a run.

    Attributes:
        model: its parameters and buffers change.
        optimizer: the optimiser, whose parameter groups carry `names`.
        optimizer_name: its name in run.yaml.
        guard: judges the steps.
        average: the moving average of the weights, if the run has one.
        scaler: the loss scale, if the precision needs one.
    """

    model: ClipModel
    optimizer: torch.optim.Optimizer
    optimizer_name: str
    guard: Guard
    average: WeightAverage | None = None
    scaler: LossScaler | None = None

    def collect(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Live tensors by part of a checkpoint, sharded ones as they are, and the rest as JSON."""
        state = optimizer_state.collect(self.optimizer, self.optimizer_name)
        parts = {WEIGHTS: dict(self.model.state_dict()), OPTIMIZER: state.tensors}
        if self.average is not None:
            parts[AVERAGE] = self.average.tensors()
        return parts, {
            "optimizer": state.numbers,
            "guard": self.guard.to_json(),
            "loss_scale": self.scaler.to_json() if self.scaler is not None else None,
        }

    def restore(
        self,
        store: ObjectStore,
        group: Group,
        training_digest: str,
        on_reject: Callable[[Rejection], None],
        wanted: Callable[[CheckpointId], bool] = lambda _: True,
    ) -> Restored | None:
        """Become what the newest intact checkpoint holds; None if there is none. See `restore.restore`. Collective.

        Raises:
            SpecError: it belongs to another run, or to another optimiser.
            CorruptError: it does not fit the model.
        """
        weights = dict(self.model.state_dict())
        if any_sharded(weights):
            found = restore_sharded(store, group, self.room, training_digest, on_reject, wanted)
        else:
            found = restore(store, group, {WEIGHTS: weights}, training_digest, on_reject, wanted)
        if found is not None:
            self.take(found)
        return found

    def take(self, found: Restored) -> None:
        """Become what was found; what `found` does not have of the weights is in place already.

        Raises:
            SpecError: it belongs to another optimiser.
            CorruptError: it says nothing about the optimiser, or does not fit the model.
        """
        if WEIGHTS in found.tensors:
            problems = copy_into(dict(self.model.state_dict()), found.tensors[WEIGHTS])
            if problems:
                raise CorruptError(f"the state does not fit the model: {'; '.join(problems[:3])}.")
        if "optimizer" not in found.state:
            raise CorruptError(f"checkpoint {found.checkpoint} says nothing about its optimiser.")
        state = OptimizerState(found.tensors.get(OPTIMIZER, {}), found.state["optimizer"])
        optimizer_state.load(self.optimizer, self.optimizer_name, state)
        self.guard.load_json(found.state["guard"])
        if self.scaler is not None and found.state["loss_scale"] is not None:
            self.scaler.load_json(found.state["loss_scale"])
        if self.average is not None:
            if AVERAGE in found.tensors:
                self.average.load(found.tensors[AVERAGE])
            else:  # averaging was switched on in the middle of the run
                self.average.restart()

    def room(self, shapes: Mapping[str, Shapes]) -> dict[str, Tensors]:
        """Sharded tensors for what a checkpoint holds: the weights and their average themselves, moments to be."""
        parameters = dict(self.model.named_parameters())
        made = {WEIGHTS: dict(self.model.state_dict()), OPTIMIZER: state_like(shapes.get(OPTIMIZER, {}), parameters)}
        if self.average is not None and AVERAGE in shapes:
            made[AVERAGE] = self.average.tensors()
        return made
