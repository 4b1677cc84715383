"""Model names and what they may stand for: built-in ones, hub repositories, folders, addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clip_trainer.model.config import model_names, raw_config
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.locations import DIRECTORY_PREFIX, HUB_PREFIX, HubLocation, parse_location
from clip_trainer.pretrained.settings import from_environment
from clipctl.contract.errors import ClipError, MissingError, SpecError

CONFIG_FILE = "open_clip_config.json"
_SCHEMES = {DIRECTORY_PREFIX: "local-dir", HUB_PREFIX: "hf-hub"}


class UnknownModelError(SpecError, RuntimeError):
    """There is no model of this name (a RuntimeError in OpenCLIP)."""


class FolderNotFoundError(MissingError, FileNotFoundError):
    """A folder, or the configuration in it, does not exist (a FileNotFoundError in OpenCLIP)."""


class FolderConfigError(SpecError, ValueError):
    """The configuration in a folder or repository cannot be used (a ValueError in OpenCLIP)."""


def parse_model_name(model_name: str) -> tuple[str | None, str]:
    """Scheme and rest of a model name.

    Returns:
        `("hf-hub", "org/repo")`, `("local-dir", path)`, `("url", address)` for `s3://...` and the like, or
        `(None, name)`.

    Raises:
        ValueError: nothing stands behind the scheme.
    """
    for prefix, scheme in _SCHEMES.items():
        if model_name.startswith(prefix):
            rest = model_name[len(prefix) :]
            if not rest:
                raise ValueError(f"nothing stands behind {prefix!r} in the model name")
            return scheme, rest
    return ("url", model_name) if "://" in model_name else (None, model_name)


def list_models() -> list[str]:
    """Names of all model configurations, numbers in them sorted as numbers."""
    return sorted(model_names(), key=_natural)


def get_model_config(model_name: str) -> dict[str, Any] | None:
    """The configuration of a model in OpenCLIP's layout, the caller's own copy; None if the name is unknown.

    Raises:
        ClipError: the folder, repository or address of the name holds none.
    """
    scheme, rest = parse_model_name(model_name)
    if scheme is None:
        return raw_config(rest) if rest in model_names() else None
    content = read_folder_config(model_name)
    config: dict[str, Any] = content.get("model_cfg", content)
    return config


def read_folder_config(model_name: str, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """The content of `open_clip_config.json` where a name with a scheme points to.

    Raises:
        FolderNotFoundError: no such folder, or no such file in it.
        FolderConfigError: the file is not a JSON object.
        ClipError: it could not be fetched.
    """
    path = _config_path(model_name, cache_dir)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderConfigError(f"{path} could not be read: {error}.") from None
    if not isinstance(content, dict):
        raise FolderConfigError(f"{path} does not hold a JSON object.")
    return content


def _config_path(model_name: str, cache_dir: str | Path | None) -> Path:
    scheme, rest = parse_model_name(model_name)
    fetcher = Fetcher(from_environment(cache_dir))
    if scheme == "url":
        return fetcher.location(f"{rest.rstrip('/')}/{CONFIG_FILE}")
    if scheme == "hf-hub":
        place = parse_location(model_name)
        assert isinstance(place, HubLocation)
        return fetcher.file(place.repository, CONFIG_FILE, place.revision)
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        raise FolderNotFoundError(f"There is no directory {folder}.", hint="Check the path behind local-dir:.")
    if not (folder / CONFIG_FILE).is_file():
        raise FolderNotFoundError(f"{folder} holds no {CONFIG_FILE}.", hint="Export the model again.")
    return folder / CONFIG_FILE


def unknown_model(error: ClipError) -> UnknownModelError:
    """The same error as the type that callers of OpenCLIP expect."""
    return UnknownModelError(error.problem, hint=error.hint, code=error.code)


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
