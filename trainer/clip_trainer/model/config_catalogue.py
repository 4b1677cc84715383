"""The configurations that have a name: built in, or added by the user.

The built-in ones lie in `configs/<family>.json`, one object a file that maps model names to OpenCLIP's configuration
of that model. Names, sizes and options are those of OpenCLIP 3.3.0 (MIT licence, mlfoundations/open_clip), so that a
name means the same weights; `own.json` holds models of ours.
"""

from __future__ import annotations

import copy
import difflib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from clip_trainer.model.config_clip import ClipConfig
from clipctl.contract.errors import MissingError, SpecError

_REQUIRED = ("embed_dim", "vision_cfg", "text_cfg")
_added: dict[str, dict[str, Any]] = {}


def model_names() -> tuple[str, ...]:
    """Names of all configurations, sorted."""
    return tuple(sorted({**_built_in(), **_added}))


def raw_config(name: str) -> dict[str, Any]:
    """The configuration called `name` as it is stored, in OpenCLIP's JSON layout (a copy of the caller's own).

    Raises:
        SpecError: no such name; the nearest one is suggested.
    """
    canonical = name.replace("/", "-")
    data = _added.get(canonical) or _built_in().get(canonical)
    if data is None:
        near = difflib.get_close_matches(canonical, model_names(), n=1, cutoff=0.4)
        suggestion = f"Did you mean {near[0]}? " if near else ""
        raise SpecError(f"There is no model called {name!r}.", hint=f"{suggestion}Known: {', '.join(model_names())}.")
    return copy.deepcopy(data)


def get_config(name: str) -> ClipConfig:
    """The configuration called `name` (a `/` counts as `-`: `ViT-B/32`).

    Raises:
        SpecError: no such name (the nearest one is suggested), or it was added and is wrong.
    """
    return ClipConfig.from_dict(raw_config(name), name.replace("/", "-"))


def read_config(path: str | Path) -> ClipConfig:
    """The configuration in a JSON file: a model's alone, or below `model_cfg` as in `open_clip_config.json`.

    Raises:
        MissingError: there is no such file.
        SpecError: it is not JSON, or a field of it is wrong.
    """
    data = _read_json(Path(path))
    if isinstance(data, dict) and "model_cfg" in data:
        data = data["model_cfg"]
    return ClipConfig.from_dict(data, str(path))


def add_model_config(path: str | Path) -> None:
    """Add configurations to the named ones for the rest of the process; the name is the file's without `.json`.

    Files that are JSON but no model configuration are passed over, as OpenCLIP does. An added name hides a built-in
    one.

    Args:
        path: a JSON file, or a folder of them.

    Raises:
        MissingError: there is neither a file nor a folder.
        SpecError: a file is not JSON.
    """
    path = Path(path)
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        data = _read_json(file)
        if isinstance(data, dict) and all(key in data for key in _REQUIRED):
            _added[file.stem] = data


@cache
def _built_in() -> dict[str, dict[str, Any]]:
    folder = resources.files(__package__).joinpath("configs")
    found: dict[str, dict[str, Any]] = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".json"):
            found |= json.loads(entry.read_text(encoding="utf-8"))
    return found


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"There is no model configuration at {path}.", hint="Check the path.") from None
    except (ValueError, IsADirectoryError) as error:
        raise SpecError(f"{path} is not a JSON file: {error}.", hint="It must hold a model configuration.") from None
