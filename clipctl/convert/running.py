"""Name, storage, workers, evaluation and logs of an OpenCLIP command."""

from __future__ import annotations

import re

from clipctl.contract.names import MAX_RUN_NAME
from clipctl.convert.commandline import OpenClipCommand
from clipctl.convert.conversion import Conversion
from clipctl.convert.epoch import steps_per_epoch

_QUIET = {
    "log_local": "clipctl logs shows every rank",
    "save_most_recent": "the newest checkpoint is always found",
    "copy_codebase": "the image is the code",
    "torchscript": "torch.compile is the way now (model.compile)",
    "trace": "torch.compile is the way now (model.compile)",
    "horovod": "ranks meet through torch's rendezvous",
    "dist_url": "clipctl sets up the rendezvous",
    "dist_backend": "NCCL is used on GPUs, gloo on CPUs",
    "debug": "there is no debug level",
    "cache_dir": "set CLIPCTL_CACHE in env",
    "hf_tokenizer_name": "the model's configuration names its tokenizer",
}


def translate_running(command: OpenClipCommand, conversion: Conversion) -> None:
    """Fill `name`, `checkpoint`, `scale`, `eval` and `log`."""
    conversion.set("name", run_name(command["name"] or f"openclip-{command['model']}"))
    _storage(command, conversion)
    _workers(command, conversion)
    _evaluation(command, conversion)
    _logs(command, conversion)
    for option, reason in _QUIET.items():
        if option in command.given:
            conversion.note(f"--{option.replace('_', '-')} is not needed: {reason}.")


def run_name(text: str) -> str:
    """A DNS label made of any text."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    label = label if label[:1].isalpha() else f"run-{label}"
    return label[:MAX_RUN_NAME].strip("-")


def _storage(command: OpenClipCommand, conversion: Conversion) -> None:
    logs = command["logs"]
    if str(logs).lower() == "none":
        conversion.note("--logs none: a run always keeps its checkpoints; they go to runs/.")
        logs = "runs"
    conversion.set("checkpoint.path", command["remote_sync"] or logs)
    steps, frequency = steps_per_epoch(command), command["save_frequency"]
    if steps is not None and frequency > 0:
        conversion.set("checkpoint.every_steps", steps * frequency)
    elif frequency > 0 and "save_frequency" in command.given:
        conversion.note("--save-frequency counts epochs; checkpoint.every_steps keeps its default of 1000 steps.")
    if command["delete_previous_checkpoint"]:
        conversion.set("checkpoint.keep", 2)
    resume = command["resume"]
    if resume == "latest":
        conversion.note("--resume latest: the newest verified checkpoint is always resumed.")
    elif resume:
        conversion.set("checkpoint.resume_from", resume)


def _workers(command: OpenClipCommand, conversion: Conversion) -> None:
    if command.nodes > 1:
        conversion.set("scale.nodes", {"min": 1, "max": command.nodes})
    if command.ranks_per_node > 1:
        conversion.set("scale.devices_per_node", command.ranks_per_node)
    if command["device"] != "cpu":
        conversion.set("scale.resources.gpu", command.ranks_per_node)
    if command.launcher in ("srun", "torchrun") and not command.nodes_known and _says_many(command):
        conversion.note("the command does not say on how many nodes it runs: set scale.nodes and train.global_batch.")


def _says_many(command: OpenClipCommand) -> bool:
    return command.launcher == "srun"


def _evaluation(command: OpenClipCommand, conversion: Conversion) -> None:
    zero_shot = {"classes": "imagenet", "templates": "imagenet"}
    every = {"every": {"epochs": command["zeroshot_frequency"]}} if command["zeroshot_frequency"] > 0 else {}
    if command["imagenet_val"]:
        conversion.set("eval.zero_shot", {"folder": command["imagenet_val"], **zero_shot, **every})
    if command["imagenet_v2"]:
        conversion.set("eval.zero_shot_sets.imagenetv2", {"folder": command["imagenet_v2"], **zero_shot, **every})
    if command["val_data"] and command["val_frequency"] > 0:
        conversion.set("eval.retrieval.every", {"epochs": command["val_frequency"]})


def _logs(command: OpenClipCommand, conversion: Conversion) -> None:
    report = command["report_to"]
    if "tensorboard" in report or report == "all":
        conversion.set("log.tensorboard", True)
    if "wandb" in report or report == "all":
        conversion.set("log.wandb", {"project": command["wandb_project_name"]})
        conversion.set("log.wandb.notes", command["wandb_notes"] or None)
        conversion.note("--report-to wandb: put WANDB_API_KEY into a Secret and name it in `secrets`.")
    if "log_every_n_steps" in command.given:
        conversion.set("log.every_steps", command["log_every_n_steps"])
