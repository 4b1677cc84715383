"""buildah, with a store of its own in the cache."""

from __future__ import annotations

from pathlib import Path

from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import Argument, run, succeeds

RUN_ROOT = Path("/run/clipctl-buildah")


def command(settings: Settings, *words: Argument) -> list[Argument]:
    """A buildah command line against our store."""
    store: list[Argument] = ["--root", settings.cache / "buildah", "--runroot", RUN_ROOT, "--storage-driver", "overlay"]
    return ["buildah", *store, *words]


def buildah(settings: Settings, *words: Argument, timeout: float = 1800) -> str:
    """Run buildah and return its stdout.

    Raises:
        UnavailableError: it failed.
    """
    return run(command(settings, *words), timeout=timeout).strip()


def has_image(settings: Settings, name: str) -> bool:
    """Whether the store holds an image of this name."""
    return succeeds(command(settings, "inspect", "--type", "image", name))
