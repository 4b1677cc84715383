"""Removing what a killed node leaves behind: mounts and cgroups."""

from __future__ import annotations

import contextlib
from pathlib import Path

from clip_testkit.cluster.shell import run
from clipctl.contract.errors import UnavailableError

CGROUPS = Path("/sys/fs/cgroup")


def mounts_below(directory: Path, mounts: str) -> list[str]:
    r"""Mount points below a directory, deepest first.

    Args:
        directory: absolute path without links.
        mounts: text of `/proc/mounts`, whose second field escapes blanks as `\\040`.
    """
    points = [line.split()[1].replace("\\040", " ") for line in mounts.splitlines() if line.strip()]
    return sorted((p for p in points if p.startswith(f"{directory}/")), key=len, reverse=True)


def unmount_below(directory: Path) -> None:
    """Unmount everything below a directory, so that deleting it cannot reach through a mount.

    Raises:
        UnavailableError: something stayed mounted.
    """
    here = directory.resolve()
    for point in mounts_below(here, Path("/proc/mounts").read_text()):
        run(["umount", "--lazy", point])
    left = mounts_below(here, Path("/proc/mounts").read_text())
    if left:
        raise UnavailableError(f"{left[0]} is still mounted; the state directory {here} was left in place.")


def remove_cgroups(root: Path = CGROUPS) -> None:
    """Remove the empty cgroups of the pods, in every hierarchy (cgroup v1) or the one (v2)."""
    for top in [root / "kubepods", *root.glob("*/kubepods")]:
        if top.is_dir():
            for group in sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                with contextlib.suppress(OSError):
                    group.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()
