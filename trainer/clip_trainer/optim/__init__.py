"""The optimiser: parameter groups, optimisers by name, learning-rate schedules, gradient clipping, loss scaling."""

from __future__ import annotations

from clip_trainer.optim.adamw import AdamWConfig, adamw_defaults, build_adamw
from clip_trainer.optim.arguments import OptimizerSettings
from clip_trainer.optim.bounds import clamp_logit_scale, clip_gradient_norm
from clip_trainer.optim.factory import build_optimizer, optimizer_names
from clip_trainer.optim.groups import GroupRules, parameter_groups
from clip_trainer.optim.scaler import LossScaler
from clip_trainer.optim.schedule import Schedule, learning_rate, set_learning_rate

__all__ = [
    "AdamWConfig",
    "GroupRules",
    "LossScaler",
    "OptimizerSettings",
    "Schedule",
    "adamw_defaults",
    "build_adamw",
    "build_optimizer",
    "clamp_logit_scale",
    "clip_gradient_norm",
    "learning_rate",
    "optimizer_names",
    "parameter_groups",
    "set_learning_rate",
]
