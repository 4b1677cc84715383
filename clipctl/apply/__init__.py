"""Talking to a Kubernetes API server; the only part of the CLI that knows the `kubernetes` package."""

from clipctl.apply.cluster import Cluster, connect
from clipctl.apply.kinds import KINDS, RUN_KINDS, Kind

__all__ = ["KINDS", "RUN_KINDS", "Cluster", "Kind", "connect"]
