"""Training state from and for OpenCLIP's training program: `checkpoint.resume_from`, and what an export needs."""

from __future__ import annotations

from typing import Any

import torch

from clip_trainer.parallel.pieces import any_sharded
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.settings import from_environment
from clip_trainer.train.group import Group
from clip_trainer.train.trainable import Trainable
from clip_trainer.weights.activation import check_activation
from clip_trainer.weights.training_checkpoint import MOMENTS, Position, describe, resume

STATE_KEY = "open_clip_training"
"""Where the description stands in the state of our checkpoints."""


def adopt(location: str, trainable: Trainable, group: Group, *, check_quick_gelu: bool) -> Position:
    """Continue from a training checkpoint of OpenCLIP: weights and AdamW's moments on every rank. Collective.

    Rank 0 alone fetches and reads it; the others get the tensors from it. Ranks of a sharded model all read it.

    Args:
        location: path or URL of `epoch_K.pt`.
        trainable: what becomes of it; the average of the weights starts anew from them.
        group: the ranks.
        check_quick_gelu: refuse weights that say they were made with the other activation.

    Raises:
        ClipError: it could not be fetched, is damaged or not safe to read, or does not fit the model or optimiser.
    """
    model, optimizer = trainable.model, trainable.optimizer

    def read() -> list[int]:
        path = Fetcher(from_environment()).location(location)
        found = resume(path, model, optimizer, check_quick_gelu=check_quick_gelu)
        return [found.epoch, found.step]

    if any_sharded(model.state_dict()):
        position = Position(*group.on_each(read)[0])
    else:
        position = Position(*group.on_first(read))
        group.broadcast_tensors(model.state_dict().values())
        if position.step:
            _share_moments(optimizer, group, position.step)
    if trainable.average is not None:
        trainable.average.restart()
    return position


def description(trainable: Trainable, epochs: float) -> dict[str, Any]:
    """What a checkpoint of ours must say so that it can be exported for OpenCLIP; empty if it has no form for it.

    Args:
        trainable: the state that is stored.
        epochs: passes over the data so far.
    """
    described = describe(trainable.model, trainable.optimizer)
    return {} if described is None else {STATE_KEY: {**described, "epochs": epochs}}


def check_restored(state: dict[str, Any], trainable: Trainable, checkpoint: str) -> None:
    """Refuse a checkpoint of the run that was trained with the other activation.

    Raises:
        ActivationMismatch: it was.
    """
    config = state.get("open_clip_config", {}).get("model_cfg")
    if config is not None:
        check_activation(bool(config.get("quick_gelu", False)), trainable.model.config, f"checkpoint {checkpoint}")


def _share_moments(optimizer: torch.optim.Optimizer, group: Group, step: int) -> None:
    for settings in optimizer.param_groups:
        for parameter in settings["params"]:
            state = optimizer.state[parameter]
            if not group.is_first:
                device = parameter.device if settings.get("fused") else "cpu"
                state["step"] = torch.tensor(float(step), device=device)
                state.update({moment: torch.empty_like(parameter) for moment in MOMENTS})
            group.broadcast_tensors(state[moment] for moment in MOMENTS)
