"""Batch, length, optimiser and schedule of an OpenCLIP command."""

from __future__ import annotations

from clipctl.convert.commandline import OpenClipCommand
from clipctl.convert.conversion import Conversion

_DEFAULT_LEARNING_RATE = 5e-4
_SCHEDULES = {"cosine": "cosine", "const": "constant", "const-cooldown": "constant-cooldown"}


def translate_training(command: OpenClipCommand, conversion: Conversion) -> None:
    """Fill `train`, except for the loss."""
    conversion.set("train.global_batch", command["batch_size"] * command.world * command["accum_freq"])
    conversion.set("train.micro_batch", command["batch_size"])
    conversion.set("train.epochs", command["epochs"])
    _schedule(command, conversion)
    conversion.set("train.learning_rate", _learning_rate(command))
    conversion.set("train.weight_decay", command["wd"])
    for option in ("beta1", "beta2", "eps", "momentum", "grad_clip_norm"):
        conversion.set(f"train.{option}", command[option])
    conversion.set("train.optimizer", command["opt"])
    conversion.set("train.seed", command["seed"])
    if command["accum_freq"] > 1:
        conversion.note(
            f"--accum-freq {command['accum_freq']}: OpenCLIP multiplies the gradient of logit_scale by it; here all "
            "gradients are those of the whole batch."
        )


def _learning_rate(command: OpenClipCommand) -> float:
    """OpenCLIP fills in a default for AdamW only; without one, timm's optimisers crash its scheduler."""
    given = command["lr"]
    return _DEFAULT_LEARNING_RATE if given is None else float(given)


def _schedule(command: OpenClipCommand, conversion: Conversion) -> None:
    conversion.set("train.warmup_steps", command["warmup"])
    name = command["lr_scheduler"]
    if command["skip_scheduler"]:
        conversion.set("train.schedule", "none")
        return
    if name not in _SCHEDULES:
        conversion.refuse(f"--lr-scheduler {name}: OpenCLIP knows {', '.join(_SCHEDULES)}.")
        return
    conversion.set("train.schedule", _SCHEDULES[name])
    if name == "const-cooldown":
        _cooldown(command, conversion)


def _cooldown(command: OpenClipCommand, conversion: Conversion) -> None:
    if command["epochs_cooldown"] is None:
        conversion.refuse("--lr-scheduler const-cooldown needs --epochs-cooldown.")
    conversion.set("train.cooldown_epochs", command["epochs_cooldown"])
    conversion.set("train.cooldown_end", command["lr_cooldown_end"])
    conversion.set("train.cooldown_power", command["lr_cooldown_power"])
