"""Expected outputs of a model configuration, so that a change of code that changes a model is noticed.

`python -m clip_trainer.golden NAME FILE [--check] [--config FILE]` is what `clipctl models golden` runs. The weights
are those of a seed, the inputs follow from the configuration by a formula, so it needs neither downloads nor data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.jsonanswer import answer
from clip_trainer.model.config import ClipConfig, get_config, read_config
from clip_trainer.model.factory import create_model
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError

FORMAT = 1
TOLERANCE = 1e-5
"""Largest difference of a normalised feature (absolute): what other CPUs and libraries add in fp32."""

_COMPARED = ("format", "config", "seed", "state_dict", "parameters", "inputs")
_BATCH = 2
_VALUES = 16  # of each feature row that are kept


def golden(config: ClipConfig, seed: int = 0) -> dict[str, Any]:
    """Names, shapes and types of the weights, and the features of fixed inputs, as JSON values.

    Args:
        config: the model.
        seed: of its weights.
    """
    model = create_model(config, seed=seed).eval()
    images, texts = fixed_images(model), fixed_texts(config)
    with torch.inference_mode():
        features = {
            "image": model.encode_image(images, normalize=True),
            "text": model.encode_text(texts, normalize=True),
        }
    table = [[key, list(value.shape), str(value.dtype)] for key, value in model.state_dict().items()]
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "seed": seed,
        "state_dict": {"tensors": len(table), "sha256": _digest(table)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "inputs": {"images": _digest_of(images), "texts": _digest_of(texts)},
        "features": {name: _rows(value) for name, value in features.items()},
    }


def fixed_images(model: nn.Module) -> Tensor:
    """Images as the model takes them, float32 [2, 3, height, width] in -1..1, from a formula without randomness."""
    size: Any = getattr(model.visual, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    cells = torch.arange(_BATCH * 3 * height * width, dtype=torch.int64)
    return ((cells * 7919 % 511).float() / 255 - 1).reshape(_BATCH, 3, height, width)


def fixed_texts(config: ClipConfig) -> Tensor:
    """Token ids as the model takes them, int64 [2, context length]: a start, some words, an end, then padding."""
    text = config.text
    length, last = text.context_length, text.vocab_size - 1
    ids = torch.full((_BATCH, length), text.pad_id, dtype=torch.int64)
    for row in range(_BATCH):
        words = max(1, (length - 2) // (row + 2))
        ids[row, 0] = last - 1
        ids[row, 1 : 1 + words] = 1 + (torch.arange(words) * 37 + row * 101) % (last - 2)
        ids[row, 1 + words] = last
    return ids


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as expected, one sentence each; empty if all is."""
    changed = [field for field in _COMPARED if expected.get(field) != found[field]]
    problems = [_change(field, expected.get(field), found[field]) for field in changed]
    for name, rows in found["features"].items():
        known = expected.get("features", {}).get(name)
        if known is None or len(known) != len(rows):
            problems.append(f"the {name} features have another shape")
            continue
        worst = max(abs(a - b) for old, new in zip(known, rows, strict=True) for a, b in zip(old, new, strict=False))
        if not worst <= TOLERANCE:
            problems.append(f"the {name} features differ by up to {worst:.3g}")
    return problems


def run(arguments: list[str]) -> dict[str, Any]:
    """Write or check the file that the arguments name.

    Raises:
        CorruptError: with `--check`, the model gives something else.
        ClipError: no such model or file, or it cannot be written.
    """
    parser = argparse.ArgumentParser(prog="clip_trainer.golden")
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--config", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums are then added in one order, on every machine
    config = read_config(given.config) if given.config else get_config(given.name)
    if not given.check:
        found = {"model": given.name, **golden(config)}
        _write(given.file, found)
        return {"model": given.name, "file": str(given.file), "parameters": found["parameters"]}
    expected = _read(given.file)
    problems = differences(expected, golden(config, int(expected.get("seed", 0))))
    if problems:
        raise CorruptError(
            f"{given.name} is not as {given.file} says: {'; '.join(problems)}.",
            hint="If the change is meant, write the file anew.",
        )
    return {"model": given.name, "file": str(given.file), "equal": True, "tolerance": TOLERANCE}


def _change(field: str, old: Any, new: Any) -> str:
    """In a few words; of a configuration only the fields that differ."""
    if field == "config" and isinstance(old, dict):
        return f"config differs in {', '.join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))}"
    if field == "state_dict" and isinstance(old, dict):
        return "names, shapes or types of the weights differ"
    return f"{field} is {new} and was {old}"


def _rows(features: Tensor) -> list[list[float]]:
    return [[round(value, 8) for value in row[:_VALUES].tolist()] for row in features.double()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _digest_of(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"There is no file {path}.", hint="Write it without --check first.") from None
    except ValueError as error:
        raise CorruptError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise CorruptError(f"{path} holds no golden outputs.")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotCreateError(f"cannot write {path}: {error.strerror or error}.") from None


if __name__ == "__main__":
    sys.exit(answer(run, sys.argv[1:]))
