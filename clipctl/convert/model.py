"""Model and loss of an OpenCLIP command."""

from __future__ import annotations

from clipctl.convert.commandline import OpenClipCommand
from clipctl.convert.conversion import Conversion

_DIRECT = {
    "pretrained_image": "model.pretrained_image",
    "force_custom_text": "model.custom_text",
    "force_quick_gelu": "model.quick_gelu",
    "force_context_length": "model.context_length",
    "force_patch_dropout": "model.patch_dropout",
    "grad_checkpointing": "model.grad_checkpointing",
    "torchcompile": "model.compile",
    "image_mean": "model.preprocess.mean",
    "image_std": "model.preprocess.std",
    "image_resize_mode": "model.preprocess.resize_mode",
}


def translate_model(command: OpenClipCommand, conversion: Conversion) -> None:
    """Fill `model`."""
    name = command["model"]
    conversion.set("model.name", name if ":" in name else name.replace("/", "-"))
    conversion.set("model.pretrained", command["pretrained"] or None)
    conversion.set("model.precision", command["precision"])
    for option, path in _DIRECT.items():
        conversion.set(path, command[option] or None)
    size = command["force_image_size"]
    if size:
        conversion.set("model.image_size", size[0] if len(size) == 1 else list(size[:2]))
    if command["image_interpolation"] == "random":
        conversion.note("--image-interpolation random: evaluation uses the model's own filter.")
    else:
        conversion.set("model.preprocess.interpolation", command["image_interpolation"])
    _locks(command, conversion)
    if command["use_bnb_linear"]:
        conversion.refuse(f"--use-bnb-linear {command['use_bnb_linear']}: layers of bitsandbytes are not supported.")
    if command["use_bn_sync"]:
        conversion.refuse("--use-bn-sync: batch statistics over ranks would depend on how many are alive.")


def _locks(command: OpenClipCommand, conversion: Conversion) -> None:
    if command["lock_image"]:
        lock = {"unlocked_groups": command["lock_image_unlocked_groups"]}
        if command["lock_image_freeze_bn_stats"]:
            lock["freeze_bn_stats"] = True
        conversion.set("model.lock_image", lock)
    if command["lock_text"]:
        freezes = command["lock_text_freeze_layer_norm"]
        lock = {"unlocked_layers": command["lock_text_unlocked_layers"], "freeze_layer_norm": freezes}
        conversion.set("model.lock_text", lock)


def translate_loss(command: OpenClipCommand, conversion: Conversion) -> None:
    """Fill `train.loss`; OpenCLIP chooses distillation, then CoCa (by the model's name), then SigLIP, then CLIP."""
    if command["siglip"]:
        conversion.set("train.loss.kind", "siglip")
    if "coca" in command["model"].lower():
        conversion.set("train.loss.contrastive_weight", command["coca_contrastive_loss_weight"])
        conversion.set("train.loss.caption_weight", command["coca_caption_loss_weight"])
    if command["distill_model"] and command["distill_pretrained"]:
        distill = {"model": command["distill_model"], "pretrained": command["distill_pretrained"]}
        conversion.set("train.loss.distill", distill)
    _note_gradients(command, conversion)


def _note_gradients(command: OpenClipCommand, conversion: Conversion) -> None:
    """OpenCLIP's loss is only exact with both flags, or alone on one rank."""
    if command["siglip"] or command.world == 1 or command["gather_with_grad"]:
        return
    if command["local_loss"]:
        conversion.note(
            "--local-loss without --gather-with-grad points OpenCLIP's gradient elsewhere; here it is exact."
        )
    else:
        conversion.note(
            f"without --gather-with-grad OpenCLIP's gradients are 1/{command.world} of the exact ones that are used "
            f"here: with AdamW only --grad-clip-norm notices, with SGD multiply the learning rate by 1/{command.world}."
        )
