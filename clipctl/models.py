"""Which model names exist, found without importing torch: keys of the JSON files beside the trainer's model code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path


def model_names() -> tuple[str, ...]:
    """Names of all models this installation knows, sorted; empty if the trainer package is not installed."""
    spec = importlib.util.find_spec("clip_trainer")
    roots = spec.submodule_search_locations if spec is not None and spec.submodule_search_locations else ()
    files = [file for root in roots for file in (Path(root) / "model" / "configs").glob("*.json")]
    return tuple(sorted({name for file in files for name in json.loads(file.read_text(encoding="utf-8"))}))


def canonical_name(name: str) -> str:
    """The name of the configuration of a model: OpenCLIP also writes `ViT-B/32`."""
    return name.replace("/", "-")
