"""Copies the weights of a checkpoint into a folder OpenCLIP can load, without torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipctl.checkpointtensors import read_part
from clipctl.contract.commits import read_commit, read_manifest
from clipctl.contract.errors import CannotCreateError, CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.safetensors_header import described
from clipctl.contract.store import ObjectStore
from clipctl.safetensorsfile import write_chunks

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
_AVERAGED, _WEIGHTS = "average", "weights"


def export(store: ObjectStore, checkpoint: CheckpointId, directory: str, *, averaged: bool = True) -> tuple[Path, Path]:
    """Write `open_clip_model.safetensors` and `open_clip_config.json`; every byte read is verified first.

    Args:
        store: the run's storage.
        checkpoint: which one.
        directory: where to write.
        averaged: take the averaged weights if the run averages them (`train.ema`), as its own export does.

    Returns:
        The two paths.

    Raises:
        CorruptError: the checkpoint does not verify, or holds no weights.
        CannotCreateError: a file exists already or cannot be written.
    """
    target = Path(directory)
    weights, config = target / WEIGHTS, target / CONFIG
    for path in (weights, config):
        if path.exists():
            raise CannotCreateError(f"{path} exists already.", hint="Choose another directory, or remove it.")
    manifest = described(store, checkpoint, read_manifest(store, read_commit(store, checkpoint)))
    content = manifest.state.get("open_clip_config")
    part = _AVERAGED if averaged and manifest.objects_of(_AVERAGED) else _WEIGHTS
    if not manifest.objects_of(part) or not isinstance(content, dict):
        raise CorruptError(f"checkpoint {checkpoint} holds no exportable weights.")
    tensors = read_part(store, checkpoint, manifest, part)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write(weights, write_chunks(tensors, {"format": "pt", "quick_gelu": _quick_gelu(content)}))
        _write(config, [json.dumps(content, indent=2).encode()])
    except OSError as error:
        raise CannotCreateError(f"cannot write to {directory}: {error.strerror or error}.") from error
    return weights, config


def _quick_gelu(config: dict[str, Any]) -> str:
    """The activation, recorded in the file too: weights must not be run with the other one."""
    model = config.get("model_cfg")
    return str(bool(isinstance(model, dict) and model.get("quick_gelu", False))).lower()


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that is either complete or absent."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
