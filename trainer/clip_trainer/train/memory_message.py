"""A run's state in memory, for whoever takes it over: what is not a tensor, as JSON, and how to become it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from clip_trainer.checkpoint.restore import Restored
from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.train.run import Run
from clip_trainer.train.state import TrainState
from clipctl.contract.layout import CheckpointId


def message_of(run: Run, trained: Mapping[str, Any]) -> dict[str, Any]:
    """What a process must know besides the tensors; `trained` is what `Trainable.collect` says of them."""
    last = run.checkpointer.last
    return {
        "train": run.state.to_json(),
        "trained": dict(trained),
        "last": asdict(last) if last else None,
        "remembered": run.events.remembered(-1),
    }


def become(run: Run, message: Mapping[str, Any], tensors: dict[str, Tensors]) -> None:
    """Go on from there.

    Args:
        run: all of it changes.
        message: what `message_of` said.
        tensors: by part of the state.
    """
    run.state = TrainState.from_json(message["train"])
    last = CheckpointId(**message["last"]) if message["last"] else None
    state = {"train": message["train"], **message["trained"]}
    run.trainable.take(Restored(last or CheckpointId(0, 0), run.state.samples_consumed, state, tensors))
    if last is not None:
        run.checkpointer.continue_from(last)
    run.events.remember(message["remembered"])
