"""What the environment says about fetching weights: where from, where to, how patiently, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clip_trainer.pretrained.patience import Clock

HUB_ENDPOINT = "https://huggingface.co"
"""Address of the Hugging Face hub, if `HF_ENDPOINT` names no other."""

_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True)
class FetchSettings:
    """How weights are fetched."""

    hub_cache: Path  # files of the hub, in the layout of huggingface_hub, so that both use one copy
    url_cache: Path  # files fetched by address
    offline: bool = False  # never open a connection
    endpoint: str = HUB_ENDPOINT
    mirror: str | None = None  # base address that replaces every other source
    token: str | None = field(default=None, repr=False)  # of the hub; sent to the endpoint only
    connect_timeout: float = 10.0  # seconds
    read_timeout: float = 30.0  # seconds without a byte
    give_up_after: float = 180.0  # seconds without any progress, over all attempts
    clock: Clock = field(default_factory=Clock)


def from_environment(
    cache_dir: str | Path | None = None, environ: Mapping[str, str] | None = None, clock: Clock | None = None
) -> FetchSettings:
    """Settings of this process.

    Args:
        cache_dir: replaces both caches, as the argument of this name does in OpenCLIP.
        environ: variables; default: the process's. `CLIPCTL_OFFLINE`, `HF_HUB_OFFLINE`, `CLIPCTL_MIRROR`,
            `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_CACHE`, `HF_HOME` and `XDG_CACHE_HOME` count.
        clock: time; default: the real one.
    """
    env = os.environ if environ is None else environ
    caches = Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    hub_home = Path(env.get("HF_HOME") or caches / "huggingface").expanduser()
    hub_cache = Path(env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or hub_home / "hub").expanduser()
    chosen = None if not cache_dir else Path(cache_dir).expanduser()
    return FetchSettings(
        hub_cache=chosen or hub_cache,
        url_cache=chosen or caches / "clip",
        offline=_is_true(env.get("CLIPCTL_OFFLINE")) or _is_true(env.get("HF_HUB_OFFLINE")),
        endpoint=(env.get("HF_ENDPOINT") or HUB_ENDPOINT).rstrip("/"),
        mirror=(env.get("CLIPCTL_MIRROR") or "").rstrip("/") or None,
        token=_token(env, hub_home),
        clock=clock or Clock(),
    )


def _is_true(value: str | None) -> bool:
    return value is not None and value.strip().lower() in _TRUE


def _token(env: Mapping[str, str], hub_home: Path) -> str | None:
    """The token of the hub: from the environment, or where `hf auth login` keeps it."""
    given = env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN")
    if given is None and not _is_true(env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        try:
            given = Path(env.get("HF_TOKEN_PATH") or hub_home / "token").expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    # A token pasted with a line break would otherwise end up as a second header.
    return "".join((given or "").split()) or None
