"""Debian packages the cluster needs, and the refusal when the machine cannot run one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clip_testkit.cluster.shell import run
from clipctl.contract.errors import ClusterConfigError

PROGRAMS = (
    "buildah",
    "conntrack",
    "containerd",
    "containers-storage",
    "ctr",
    "debootstrap",
    "gcc",
    "ip",
    "iptables",
    "nsenter",
    "readelf",
    "runc",
    "socat",
)
CNI_PLUGINS = Path("/usr/lib/cni")


def repository_root() -> Path:
    """Root of the checkout this module belongs to (the test kit is not part of the wheel)."""
    return Path(__file__).resolve().parents[3]


def absent_programs() -> list[str]:
    """Programs that the cluster needs and the machine lacks."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return absent if (CNI_PLUGINS / "bridge").exists() else [*absent, "CNI plugins"]


def install_prerequisites() -> None:
    """Install what is absent by `scripts/prerequisites.sh`.

    Raises:
        UnavailableError: the script failed (not root, no apt-get, no network); its text says which.
    """
    if absent_programs():
        run(["sh", repository_root() / "scripts" / "prerequisites.sh"])


def require_root() -> None:
    """Refuse early what only root can do.

    Raises:
        ClusterConfigError: not root.
    """
    if os.geteuid() != 0:
        raise ClusterConfigError(
            "the test cluster needs root (network namespace, containerd, kubelet).",
            hint="Run it as root, or point KUBECONFIG at a cluster you already have.",
        )
