"""Fetching weights through functions with OpenCLIP's names and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_trainer.pretrained.fetching import Fetcher, candidates
from clip_trainer.pretrained.locations import HubLocation
from clip_trainer.pretrained.settings import from_environment


def download_pretrained(cfg: Mapping[str, Any], prefer_hf_hub: bool = True, cache_dir: str | Path | None = None) -> str:
    """The path of the weights that a registry entry describes; empty if it describes none.

    Args:
        cfg: as `get_pretrained_cfg` gives it; a `file` in it is returned as it is.
        prefer_hf_hub: take weights that have both from the hub.
        cache_dir: where fetched files are kept.

    Raises:
        ClipError: see `fetch`.
    """
    if cfg.get("file"):
        return str(cfg["file"])
    url, hub = cfg.get("url", ""), cfg.get("hf_hub", "")
    if hub and (prefer_hf_hub or not url):
        repository, _, filename = hub.rpartition("/")
        return download_pretrained_from_hf(repository, filename=filename or None, cache_dir=cache_dir)
    return download_pretrained_from_url(url, cache_dir=cache_dir) if url else ""


def download_pretrained_from_url(url: str, cache_dir: str | Path | None = None) -> str:
    """The path of the file at an address; its digest is checked if the address holds one. Raises as `fetch` does."""
    return str(Fetcher(from_environment(cache_dir)).url(url))


def download_pretrained_from_hf(
    model_id: str,
    filename: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> str:
    """The path of a file of a hub repository, by default its weights. Raises as `fetch` does.

    A file in safetensors format is preferred to the same in a format that needs unpickling. Unlike in OpenCLIP, a
    refused token is an error of its own and not a missing file.
    """
    place = HubLocation(model_id, revision, filename or "")
    fetcher = Fetcher(from_environment(cache_dir))
    return str(fetcher.first_file(place.repository, candidates(place.filename), place.revision))
