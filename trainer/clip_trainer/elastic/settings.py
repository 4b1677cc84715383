"""What the agent is told: torchrun's PET_* variables, as training-operator sets them, and a few of our own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clip_trainer.elastic.member_settings import ENV_NODE
from clipctl.contract.errors import SpecError

DEFAULT_TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class LaunchSettings:
    """Everything an agent needs to know besides the run's configuration file."""

    min_nodes: int
    max_nodes: int
    workers_per_node: int
    endpoint: str
    """host:port of the coordinator; empty: a run of one node that keeps its own."""
    rendezvous_id: str
    node: str = "node"
    """Name of this node, different from all others'."""
    last_call: float = 1.0
    """Seconds that the first workers wait for more once there are enough; torch's default of 30 is for no one."""
    max_restarts: int = 3
    """Restarts in place without progress in between."""
    monitor_interval: float = 0.1
    """Seconds between two looks at the workers."""
    termination_log: Path = Path(DEFAULT_TERMINATION_LOG)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> LaunchSettings:
        """Read the settings from environment variables.

        Raises:
            SpecError: a variable does not have the form torchrun expects.
        """
        minimum, maximum = _node_range(environment.get("PET_NNODES", "1"))
        backend = environment.get("PET_RDZV_BACKEND", "c10d")
        if backend != "c10d":
            raise SpecError(f"PET_RDZV_BACKEND is {backend!r}; only c10d is supported.")
        endpoint = environment.get("PET_RDZV_ENDPOINT", "")
        if not endpoint and maximum > 1:
            raise SpecError("PET_NNODES asks for several nodes, but PET_RDZV_ENDPOINT is not set.")
        return cls(
            min_nodes=minimum,
            max_nodes=maximum,
            workers_per_node=_worker_count(environment.get("PET_NPROC_PER_NODE", "1")),
            endpoint=endpoint,
            rendezvous_id=environment.get("PET_RDZV_ID") or "none",
            node=environment.get(ENV_NODE) or socket.gethostname(),
            last_call=_last_call(environment.get("PET_RDZV_CONF", "")),
            max_restarts=_number(environment, "PET_MAX_RESTARTS", 3),
            monitor_interval=_seconds(environment, "PET_MONITOR_INTERVAL", 0.1),
            termination_log=Path(environment.get("CLIPCTL_TERMINATION_LOG", DEFAULT_TERMINATION_LOG)),
        )


def _node_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None:
        raise SpecError(f"PET_NNODES is {text!r}; it must be a number or MIN:MAX.")
    minimum = int(match.group(1))
    maximum = int(match.group(2) or minimum)
    if not 1 <= minimum <= maximum:
        raise SpecError(f"PET_NNODES is {text!r}; it needs 1 <= MIN <= MAX.")
    return minimum, maximum


def _worker_count(text: str) -> int:
    if text.isdigit() and int(text) > 0:
        return int(text)
    if text == "cpu":
        return os.cpu_count() or 1
    if text in ("auto", "gpu"):
        import torch

        devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if text == "gpu" and devices == 0:
            raise SpecError("PET_NPROC_PER_NODE is gpu, but this node has none.")
        return devices or os.cpu_count() or 1
    raise SpecError(f"PET_NPROC_PER_NODE is {text!r}; it must be a positive number, auto, cpu or gpu.")


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for item in filter(None, text.split(",")):
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            raise SpecError(f"PET_RDZV_CONF has {item!r}; it must be KEY=VALUE,KEY=VALUE.")
        pairs[key.strip()] = value.strip()
    return pairs


def _last_call(conf: str) -> float:
    """The one entry of PET_RDZV_CONF that means something to our coordinator."""
    name = "last_call_timeout"
    return _seconds({f"{name} of PET_RDZV_CONF": _pairs(conf).get(name, "")}, f"{name} of PET_RDZV_CONF", 1.0)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdigit():
        raise SpecError(f"{name} is {text!r}; it must be a whole number of at least 0.")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise SpecError(f"{name} is {text!r}; it must be a positive number of seconds.")
    return value
