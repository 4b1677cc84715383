"""What run.yaml says about the optimiser, its schedule and the length of the run, put into effect."""

from __future__ import annotations

import torch
from torch import nn

from clip_trainer.optim import GroupRules, OptimizerSettings, Schedule, build_optimizer
from clip_trainer.optim.factory import TIMM
from clipctl.contract.spec import RunSpec


def steps_of(spec: RunSpec, samples: int) -> int:
    """Optimiser steps of the run: `train.steps`, or enough for `train.epochs` passes (the last batch rounded up).

    Args:
        spec: the run.
        samples: of an epoch.
    """
    if spec.train.steps is not None:
        return spec.train.steps
    assert spec.train.epochs is not None  # the spec has exactly one of them
    return _steps_of_epochs(spec, spec.train.epochs, samples)


def optimizer_of(spec: RunSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of `train.*` over the trainable parameters of `model`.

    Raises:
        SpecError: see `build_optimizer`.
    """
    train = spec.train
    rules = GroupRules(
        weight_decay=train.weight_decay,
        # OpenCLIP leaves the split to timm for timm's optimisers; timm's rule is the modern one.
        decay_rule="modern" if train.optimizer.startswith(TIMM) else train.decay_rule,
        no_decay=train.no_decay,
        image_layer_decay=train.layer_decay.image,
        text_layer_decay=train.layer_decay.text,
        special=train.parameter_groups,
    )
    settings = OptimizerSettings(
        name=train.optimizer,
        lr=train.learning_rate,
        model_name=spec.model.name,
        beta1=train.beta1,
        beta2=train.beta2,
        eps=train.eps,
        momentum=train.momentum,
        options=train.optimizer_options,
    )
    return build_optimizer(model, rules, settings)


def schedule_of(spec: RunSpec, samples: int) -> Schedule:
    """The learning rate of `train.*` as a function of the step.

    Args:
        spec: the run.
        samples: of an epoch.

    Raises:
        SpecError: the cooldown is longer than the run.
    """
    train = spec.train
    cooldown = train.cooldown_steps or 0
    if train.cooldown_epochs is not None:
        cooldown = _steps_of_epochs(spec, train.cooldown_epochs, samples)
    return Schedule(
        train.schedule,
        train.learning_rate,
        train.warmup_steps,
        steps_of(spec, samples),
        cooldown,
        train.cooldown_end,
        train.cooldown_power,
    )


def _steps_of_epochs(spec: RunSpec, epochs: float, samples: int) -> int:
    return max(1, -(-int(epochs * samples) // spec.train.global_batch))
