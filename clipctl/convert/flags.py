"""Every flag of OpenCLIP's training program (3.3.0, and older spellings) and what takes its place."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from clipctl.contract.errors import SpecError


@dataclass(frozen=True)
class Flag:
    """One option of `open_clip_train.main`."""

    name: str
    """With its dashes."""
    kind: str
    """`text`, `int`, `float`, `switch`, `floats`, `ints` or `pairs` (KEY=VALUE ...)."""
    default: Any
    """What OpenCLIP uses if it is not given."""
    becomes: str
    """The field of run.yaml, or why there is none; Markdown."""


ALWAYS_EXACT = "nothing: the loss is always the exact one of the whole global batch"
ONE_DEVICE = "nothing: the pod's devices are used (`scale.devices_per_node`)"

FLAGS = (
    Flag("--train-data", "text", None, "`data.train`"),
    Flag("--train-data-upsampling-factors", "text", None, "`data.train` as a list of sources with weights"),
    Flag("--val-data", "text", None, "`eval.retrieval.data`"),
    Flag("--train-num-samples", "int", None, "`data.epoch_samples`, with OpenCLIP's rounding"),
    Flag("--val-num-samples", "int", None, "nothing: all samples of the data are evaluated"),
    Flag("--dataset-type", "text", "auto", "nothing: the name of the data says it; `data.train: synthetic:N`"),
    Flag("--dataset-resampled", "switch", False, "`data.resample`"),
    Flag("--csv-separator", "text", "\t", "`data.columns.separator`"),
    Flag("--csv-img-key", "text", "filepath", "`data.columns.image`"),
    Flag("--csv-caption-key", "text", "title", "`data.columns.caption`"),
    Flag("--imagenet-val", "text", None, "`eval.zero_shot.folder`"),
    Flag("--imagenet-v2", "text", None, "`eval.zero_shot_sets.imagenetv2.folder`"),
    Flag("--cache-dir", "text", None, "nothing: set the variable `CLIPCTL_CACHE` in `env`"),
    Flag("--logs", "text", "./logs/", "`checkpoint.path`"),
    Flag("--log-local", "switch", False, "nothing: `clipctl logs NAME --rank N` shows any rank"),
    Flag("--name", "text", None, "`name`, as a DNS label"),
    Flag("--workers", "int", 4, "`data.threads`"),
    Flag("--batch-size", "int", 64, "`train.micro_batch`, and with ranks and --accum-freq `train.global_batch`"),
    Flag("--epochs", "int", 32, "`train.epochs`"),
    Flag("--epochs-cooldown", "int", None, "`train.cooldown_epochs`"),
    Flag("--lr", "float", None, "`train.learning_rate`"),
    Flag("--beta1", "float", None, "`train.beta1`"),
    Flag("--beta2", "float", None, "`train.beta2`"),
    Flag("--eps", "float", None, "`train.eps`"),
    Flag("--wd", "float", 0.2, "`train.weight_decay`"),
    Flag("--momentum", "float", None, "`train.momentum`"),
    Flag("--warmup", "int", 10000, "`train.warmup_steps`"),
    Flag("--opt", "text", "adamw", "`train.optimizer`"),
    Flag("--use-bn-sync", "switch", False, "refused: batch statistics would depend on the number of ranks"),
    Flag("--skip-scheduler", "switch", False, "`train.schedule: none`"),
    Flag("--lr-scheduler", "text", "cosine", "`train.schedule`"),
    Flag("--lr-cooldown-end", "float", 0.0, "`train.cooldown_end`"),
    Flag("--lr-cooldown-power", "float", 1.0, "`train.cooldown_power`"),
    Flag("--save-frequency", "int", 1, "`checkpoint.every_steps`, where the length of an epoch is known"),
    Flag("--save-most-recent", "switch", False, "nothing: always, and verified"),
    Flag("--zeroshot-frequency", "int", 2, "`eval.zero_shot.every.epochs`"),
    Flag("--val-frequency", "int", 1, "`eval.retrieval.every.epochs`"),
    Flag("--resume", "text", None, "`checkpoint.resume_from`; `latest` is what always happens"),
    Flag("--precision", "text", "amp", "`model.precision`"),
    Flag("--model", "text", "RN50", "`model.name`"),
    Flag("--pretrained", "text", "", "`model.pretrained`"),
    Flag("--pretrained-image", "switch", False, "`model.pretrained_image`"),
    Flag("--lock-image", "switch", False, "`model.lock_image`"),
    Flag("--lock-image-unlocked-groups", "int", 0, "`model.lock_image.unlocked_groups`"),
    Flag("--lock-image-freeze-bn-stats", "switch", False, "`model.lock_image.freeze_bn_stats`"),
    Flag("--image-mean", "floats", None, "`model.preprocess.mean`"),
    Flag("--image-std", "floats", None, "`model.preprocess.std`"),
    Flag("--image-interpolation", "text", None, "`model.preprocess.interpolation`"),
    Flag("--image-resize-mode", "text", None, "`model.preprocess.resize_mode`"),
    Flag("--aug-cfg", "pairs", None, "`data.augment`"),
    Flag("--grad-checkpointing", "switch", False, "`model.grad_checkpointing`"),
    Flag("--local-loss", "switch", False, ALWAYS_EXACT),
    Flag("--gather-with-grad", "switch", False, ALWAYS_EXACT),
    Flag("--force-context-length", "int", None, "`model.context_length`"),
    Flag("--force-image-size", "ints", None, "`model.image_size`"),
    Flag("--force-quick-gelu", "switch", False, "`model.quick_gelu`"),
    Flag("--force-patch-dropout", "float", None, "`model.patch_dropout`"),
    Flag("--force-custom-text", "switch", False, "`model.custom_text`"),
    Flag("--torchscript", "switch", False, "nothing: `model.compile` is the way now"),
    Flag("--torchcompile", "switch", False, "`model.compile`"),
    Flag("--trace", "switch", False, "nothing: `model.compile` is the way now"),
    Flag("--accum-freq", "int", 1, "`train.global_batch` (micro-batches follow from it)"),
    Flag("--device", "text", "cuda", ONE_DEVICE),
    Flag("--dist-url", "text", None, "nothing: the rendezvous is set up by clipctl"),
    Flag("--dist-backend", "text", None, "nothing: NCCL on GPUs, gloo on CPUs"),
    Flag("--report-to", "text", "", "`log.tensorboard`, `log.wandb`"),
    Flag("--wandb-notes", "text", "", "`log.wandb.notes`"),
    Flag("--wandb-project-name", "text", "open-clip", "`log.wandb.project`"),
    Flag("--debug", "switch", False, "nothing"),
    Flag("--copy-codebase", "switch", False, "nothing: the image is the code (`image`)"),
    Flag("--horovod", "switch", False, "nothing: ranks meet through torch's rendezvous"),
    Flag("--ddp-static-graph", "switch", False, "nothing: gradients are summed without DDP's graph"),
    Flag("--no-set-device-rank", "switch", False, ONE_DEVICE),
    Flag("--seed", "int", 0, "`train.seed`"),
    Flag("--grad-clip-norm", "float", None, "`train.grad_clip_norm`"),
    Flag("--lock-text", "switch", False, "`model.lock_text`"),
    Flag("--lock-text-unlocked-layers", "int", 0, "`model.lock_text.unlocked_layers`"),
    Flag("--lock-text-freeze-layer-norm", "switch", False, "`model.lock_text.freeze_layer_norm`"),
    Flag("--log-every-n-steps", "int", 100, "`log.every_steps`"),
    Flag("--coca-caption-loss-weight", "float", 2.0, "`train.loss.caption_weight`"),
    Flag("--coca-contrastive-loss-weight", "float", 1.0, "`train.loss.contrastive_weight`"),
    Flag("--remote-sync", "text", None, "`checkpoint.path`: everything is written there directly"),
    Flag("--remote-sync-frequency", "int", 300, "nothing: nothing has to be copied"),
    Flag("--remote-sync-protocol", "text", "s3", "nothing: the URL says it"),
    Flag("--delete-previous-checkpoint", "switch", False, "`checkpoint.keep: 2`"),
    Flag("--distill-model", "text", None, "`train.loss.distill.model`"),
    Flag("--distill-pretrained", "text", None, "`train.loss.distill.pretrained`"),
    Flag("--use-bnb-linear", "text", None, "refused: layers of bitsandbytes are not supported"),
    Flag("--siglip", "switch", False, "`train.loss.kind: siglip`"),
    Flag("--loss-dist-impl", "text", None, ALWAYS_EXACT),
    # Of releases before 2.4, still named in OpenCLIP's documentation.
    Flag("--hf-tokenizer-name", "text", None, "nothing: the model's configuration names its tokenizer"),
)

_TYPES: dict[str, dict[str, Any]] = {
    "text": {},
    "int": {"type": int},
    "float": {"type": float},
    "floats": {"type": float, "nargs": "+"},
    "ints": {"type": int, "nargs": "+"},
    "pairs": {"nargs": "*"},
}
ALIASES = {"--train-num-samples": ("--train-num_samples",)}


def option(name: str) -> str:
    """The key of a flag in what `parse_flags` returns: `--train-data` is `train_data`."""
    return name.lstrip("-").replace("-", "_")


def parse_flags(words: Sequence[str]) -> dict[str, Any]:
    """The options that stand in `words`, by `option` name; those that do not are left out.

    Raises:
        SpecError: an unknown flag, or a value of the wrong type.
    """
    parser = _Parser(prog="open_clip_train.main", add_help=False, argument_default=argparse.SUPPRESS)
    for flag in FLAGS:
        if flag.kind == "switch":
            parser.add_argument(flag.name, action="store_true")
        else:
            parser.add_argument(flag.name, *ALIASES.get(flag.name, ()), **_TYPES[flag.kind])
    options = vars(parser.parse_args(list(words)))
    if "aug_cfg" in options:
        options["aug_cfg"] = dict(_pair(word) for word in options["aug_cfg"])
    return options


def default_of(name: str) -> Any:
    """OpenCLIP's default of an option, by `option` name."""
    return next(flag.default for flag in FLAGS if option(flag.name) == name)


def _pair(word: str) -> tuple[str, Any]:
    key, separator, value = word.partition("=")
    if not separator:
        raise SpecError(f"--aug-cfg takes KEY=VALUE, not {word!r}.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SpecError(
            f"this is not a training command of OpenCLIP: {message}.",
            hint="Give the whole command after `--`, with the flags of open_clip_train.main.",
        )
