"""A base image from Debian packages: no image registry needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.buildah import buildah, has_image
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import run, say

PACKAGES = ("ca-certificates", "python3", "python3-venv")
DROPPED = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
"""Directories that are emptied: nothing at run time reads them."""


def image_name() -> str:
    """Name of the base image: another release or package list is another name."""
    key = hashlib.sha256(repr((PACKAGES, DROPPED)).encode()).hexdigest()[:8]
    return f"localhost/clipctl/base:{pinned.DEBIAN}-{key}"


def ensure_base_image(settings: Settings) -> str:
    """Make the base image if the store lacks it, and return its name.

    `CLIPCTL_DEBIAN_MIRROR` names another package mirror than debootstrap's own.

    Raises:
        UnavailableError: debootstrap or buildah failed.
    """
    name = image_name()
    if has_image(settings, name):
        return name
    say(f"bootstrapping {name} ...")
    began = time.monotonic()
    mirror = os.environ.get("CLIPCTL_DEBIAN_MIRROR")
    include = f"--include={','.join(PACKAGES)}"
    with tempfile.TemporaryDirectory(dir=settings.cache, prefix=".debootstrap-") as work:
        root = Path(work, "root")
        run(["debootstrap", "--variant=minbase", include, pinned.DEBIAN, root, *([mirror] if mirror else [])])
        _empty(root)
        container = buildah(settings, "from", "scratch")
        buildah(settings, "add", "--quiet", container, root, "/")
        buildah(settings, "config", "--cmd", "/bin/sh", container)
        buildah(settings, "commit", "--quiet", "--rm", container, name)
    say(f"bootstrapped {name} in {time.monotonic() - began:.0f} s")
    return name


def _empty(root: Path) -> None:
    for relative in DROPPED:
        directory = root / relative
        if directory.is_dir():
            shutil.rmtree(directory)
            directory.mkdir()
