"""Writes a checkpoint of ours as OpenCLIP's training program writes its own (`epoch_K.pt`), without torch."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from clipctl import torchfile
from clipctl.checkpointtensors import read_part
from clipctl.contract.commits import Manifest, read_commit, read_manifest
from clipctl.contract.errors import CannotCreateError, CorruptError, SpecError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.safetensors_header import described
from clipctl.contract.store import ObjectStore
from clipctl.safetensorsfile import Tensor

_STATE = ("step", "exp_avg", "exp_avg_sq")
_ADAMW = {
    "amsgrad": False,
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": True,
}
"""What torch's AdamW keeps in each parameter group besides the numbers; a saved group replaces the whole group."""


def export_training(store: ObjectStore, checkpoint: CheckpointId, directory: str) -> tuple[Path, float]:
    """Write `epoch_K.pt`, K being the epochs completed, which `--resume` of OpenCLIP continues from.

    Returns:
        The path, and the position in epochs. OpenCLIP continues at the start of an epoch: what is behind K is done
        again there.

    Raises:
        CorruptError: the checkpoint does not verify.
        SpecError: OpenCLIP has no form for the optimiser's state.
        CannotCreateError: the file exists already or cannot be written.
    """
    manifest = described(store, checkpoint, read_manifest(store, read_commit(store, checkpoint)))
    training = manifest.state.get("open_clip_training")
    if not isinstance(training, dict):
        raise SpecError(
            f"OpenCLIP has no form for the optimiser state of checkpoint {checkpoint}.",
            hint="Only runs with train.optimizer adamw can be continued there. Export the weights alone instead.",
        )
    weights, optimizer = (_tensors(store, checkpoint, manifest, part) for part in ("weights", "optimizer"))
    epochs = float(training["epochs"])
    path = Path(directory) / f"epoch_{int(epochs + 1e-9)}.pt"
    if path.exists():
        raise CannotCreateError(f"{path} exists already.", hint="Choose another directory, or remove it.")
    content = {
        "epoch": int(epochs + 1e-9),
        "name": str(manifest.state.get("run", "clipctl")),
        "state_dict": weights,
        "optimizer": _optimizer(training, {**_scalars(manifest), **optimizer}),
        "quick_gelu": bool(manifest.state["open_clip_config"]["model_cfg"].get("quick_gelu", False)),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        torchfile.save(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        raise CannotCreateError(f"cannot write to {directory}: {error.strerror or error}.") from error
    return path, epochs


def _tensors(store: ObjectStore, checkpoint: CheckpointId, manifest: Manifest, part: str) -> dict[str, Tensor]:
    if not manifest.objects_of(part):
        raise CorruptError(f"checkpoint {checkpoint} holds no {part}.")
    return read_part(store, checkpoint, manifest, part)


def _scalars(manifest: Manifest) -> dict[str, Tensor]:
    """What the optimiser keeps that is a single number: stored as JSON, by key and then by parameter, or for all."""
    numbers = manifest.state["optimizer"]
    names = [name for group in manifest.state["open_clip_training"]["parameters"] for name in group]
    found: dict[str, Tensor] = {}
    for entry in numbers["single"]:
        values = entry["each"] if "each" in entry else dict.fromkeys(names, entry["all"])
        found |= {f"{entry['key']}.{name}": _number(value) for name, value in values.items()}
    return found


def _optimizer(described: dict[str, Any], stored: dict[str, Tensor]) -> dict[str, Any]:
    """The state dict of torch's AdamW over OpenCLIP's two groups; parameters that never had a gradient have none."""
    shared = {"lr": described["lr"], "betas": tuple(described["betas"]), "eps": described["eps"], **_ADAMW}
    state: dict[int, dict[str, Tensor]] = {}
    groups, first = [], 0
    for names, decay in zip(described["parameters"], described["weight_decay"], strict=True):
        numbers = list(range(first, first + len(names)))
        first += len(names)
        for number, name in zip(numbers, names, strict=True):
            kept = {key: stored[f"{key}.{name}"] for key in _STATE if f"{key}.{name}" in stored}
            if kept:
                state[number] = kept
        groups.append({**shared, "weight_decay": decay, "params": numbers})
    return {"state": state, "param_groups": groups}


def _number(value: float) -> Tensor:
    """A float32 scalar."""
    return Tensor("F32", (), memoryview(struct.pack("<f", value)))
