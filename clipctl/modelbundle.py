"""One directory with all that a model needs, which OpenCLIP and we load as `local-dir:`; every file has a digest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_trainer.pretrained.digests import sha256_of
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.registry import NORMS, PretrainedEntry
from clip_trainer.pretrained.tokenizerfiles import clip_tokenizer_files, tokenizer_files
from clipctl.contract.errors import CannotCreateError
from clipctl.exportcheckpoint import CONFIG, WEIGHTS

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
LICENCE = "LICENCE.md"


@dataclass
class Ingredients:
    """What goes into a bundle."""

    model: str  # name, or what the source calls it
    source: str  # where the weights came from
    write_weights: Callable[[Path], None]
    config: dict[str, Any]  # content of open_clip_config.json
    licence: str | None = None
    licence_basis: str | None = None
    tag: str | None = None
    tokenizer: dict[str, Path | bytes] = field(default_factory=dict)


def write_bundle(parts: Ingredients, out: str) -> dict[str, Any]:
    """Write the directory; it appears complete or not at all.

    Returns:
        The manifest: model, source, licence, and size and sha256 of each file.

    Raises:
        CannotCreateError: `out` exists already or cannot be written.
        ClipError: the weights cannot be read.
    """
    target = Path(out).expanduser()
    if target.exists():
        raise CannotCreateError(f"{target} exists already.", hint="Choose another directory, or remove it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise CannotCreateError(f"cannot write {target}: {error.strerror or error}.") from error
    try:
        manifest = _fill(staging, parts)
        staging.chmod(0o755)
        os.rename(staging, target)
    except OSError as error:
        raise CannotCreateError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def tokenizer_of(config: dict[str, Any], fetcher: Fetcher) -> dict[str, Path | bytes]:
    """The tokenizer's files for a model configuration. Raises as `tokenizer_files` does."""
    text = config.get("model_cfg", config).get("text_cfg", {})
    name = text.get("hf_tokenizer_name")
    return {**tokenizer_files(fetcher, name)} if name else {**clip_tokenizer_files()}


def config_of(model_cfg: dict[str, Any], entry: PretrainedEntry | None) -> dict[str, Any]:
    """Content of `open_clip_config.json` for a named model, with what the weights say about images and activation."""
    if entry is None:
        mean, std = NORMS["openai"]  # OpenCLIP's default for weights of which it knows nothing else
        default = {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "resize_mode": "shortest"}
        return {"model_cfg": model_cfg, "preprocess_cfg": default}
    if entry.quick_gelu:
        model_cfg = {**model_cfg, "quick_gelu": True}
    preprocess = {
        "mean": list(entry.mean),
        "std": list(entry.std),
        "interpolation": entry.interpolation,
        "resize_mode": entry.resize_mode,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess}


def _fill(folder: Path, parts: Ingredients) -> dict[str, Any]:
    parts.write_weights(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(parts.config, indent=2) + "\n", encoding="utf-8")
    (folder / LICENCE).write_text(_licence_text(parts), encoding="utf-8")
    for name, content in parts.tokenizer.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            shutil.copyfile(content, folder / name)
    manifest = {
        "format": 1,
        "model": parts.model,
        "tag": parts.tag,
        "source": parts.source,
        "licence": parts.licence,
        "files": {path.name: _described(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    return manifest


def _described(path: Path) -> dict[str, Any]:
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _licence_text(parts: Ingredients) -> str:
    if parts.licence:
        basis = f", according to: {parts.licence_basis}" if parts.licence_basis else ""
        terms = f"The weights are under {parts.licence}{basis}."
    else:
        terms = "The licence of the weights is not known to clipctl. Read the model card at their source before use."
    tokenizer = "" if not parts.tokenizer else "\nThe tokenizer's files are under the licence of their own source.\n"
    return f"# Licence of {parts.model}\n\nSource of the weights: {parts.source}\n\n{terms}\n{tokenizer}"
