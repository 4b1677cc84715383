"""The optimiser: parameter groups, AdamW, learning-rate schedules, gradient clipping."""

from __future__ import annotations

from clip_trainer.optim.adamw import AdamWConfig, adamw_defaults, build_adamw
from clip_trainer.optim.bounds import clamp_logit_scale, clip_gradient_norm
from clip_trainer.optim.groups import parameter_groups
from clip_trainer.optim.schedule import Schedule, learning_rate, set_learning_rate

__all__ = [
    "AdamWConfig",
    "Schedule",
    "adamw_defaults",
    "build_adamw",
    "clamp_logit_scale",
    "clip_gradient_norm",
    "learning_rate",
    "parameter_groups",
    "set_learning_rate",
]
