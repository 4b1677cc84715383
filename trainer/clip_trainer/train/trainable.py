"""All that training changes, except the position in the data: what a checkpoint keeps and a return to one restores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from clip_trainer.checkpoint import optimizer_state
from clip_trainer.checkpoint.optimizer_state import OptimizerState
from clip_trainer.checkpoint.restore import Restored, restore
from clip_trainer.checkpoint.tensors import AVERAGE, OPTIMIZER, WEIGHTS, Tensors
from clip_trainer.model import ClipModel
from clip_trainer.optim import LossScaler
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
        """Live tensors by part of a checkpoint, and the rest as JSON."""
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
        found = restore(store, group, {WEIGHTS: dict(self.model.state_dict())}, training_digest, on_reject, wanted)
        if found is not None:
            self._take(found)
        return found

    def _take(self, found: Restored) -> None:
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
