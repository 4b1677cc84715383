"""How many CPUs this process may use: affinity and cgroup quota, not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs available to this process, at least 1."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return max(1, available if quota is None else min(available, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """CPUs of the cgroup's quota (v2 `cpu.max`, v1 `cpu.cfs_*`); None if there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max" or -1: no limit
    return int(quota) / int(period)
