"""Command line and environment of the operator."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipctl.contract import names

_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """What the operator was told."""

    namespaces: tuple[str, ...]
    lease_namespace: str
    lease_name: str
    metrics_port: int
    log_level: str
    workers: int
    read_nodes: bool


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read flags; each has an environment variable for a default. Exits with 64 if they are wrong."""
    parser = _Parser(prog="clip-operator", description="Resumes, limits and cleans up clipctl runs on Kubernetes.")
    env = environment.get
    parser.add_argument(
        "--namespaces",
        default=env("CLIP_OPERATOR_NAMESPACES", env("POD_NAMESPACE", "default")),
        help="comma-separated namespaces to watch, or * for all (default: the operator's own)",
    )
    parser.add_argument("--lease-namespace", default=env("POD_NAMESPACE", "default"), help="where the Lease lives")
    parser.add_argument("--lease-name", default=env("CLIP_OPERATOR_LEASE", "clip-operator"), help="name of the Lease")
    port = env("CLIP_OPERATOR_METRICS_PORT", str(names.OPERATOR_METRICS_PORT))
    parser.add_argument("--metrics-port", type=int, default=port, help=f"HTTP port (default {port})")
    parser.add_argument("--log-level", choices=_LEVELS, default=env("CLIP_OPERATOR_LOG_LEVEL", "info"))
    parser.add_argument("--workers", type=int, default=env("CLIP_OPERATOR_WORKERS", "4"), help="runs handled at once")
    parser.add_argument(
        "--no-nodes",
        action="store_true",
        default=env("CLIP_OPERATOR_NO_NODES", "") == "1",
        help="do not read nodes; pods stuck on lost nodes are then left alone",
    )
    given = parser.parse_args(arguments)
    if given.workers < 1:
        parser.error("--workers must be at least 1")
    chosen = [name.strip() for name in given.namespaces.split(",") if name.strip()]
    return Settings(
        namespaces=() if "*" in chosen else tuple(dict.fromkeys(chosen)),
        lease_namespace=given.lease_namespace,
        lease_name=given.lease_name,
        metrics_port=given.metrics_port,
        log_level=given.log_level,
        workers=given.workers,
        read_nodes=not given.no_nodes,
    )


class _Parser(argparse.ArgumentParser):
    """Usage errors exit with 64, as everywhere in clipctl."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage()
        self.exit(64, f"{self.prog}: {message}\n")
