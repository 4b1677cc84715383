"""The processes of a local run: the coordinator and one launcher per node, as the cluster would start them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from clipctl.backends.localstate import RunDirectory
from clipctl.contract import names
from clipctl.contract.spec import RunSpec

HOST = "127.0.0.1"
ENV_PARENT = "CLIPCTL_PARENT_PID"
"""Children with this variable ask the kernel to be killed when their parent, the supervisor, ends."""
_RENDEZVOUS = "last_call_timeout=3"
"""Seconds that the first workers wait for more: longer than on a cluster, because here all of them start at the same
moment and compete for the same cores, and a group that forms once is better than one that forms twice."""


class Process(Protocol):
    """The part of `subprocess.Popen` that the supervisor uses."""

    pid: int

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""
        ...


class Processes:
    """Starts the processes of one run.

    Args:
        directory: where their output goes.
        spec: what they run.
        environment: of the supervisor; the user's, so credentials reach the workers.
        worker: module a worker runs.
    """

    def __init__(self, directory: RunDirectory, spec: RunSpec, environment: Mapping[str, str], worker: str) -> None:
        self._directory = directory
        self._spec = spec
        self._environment = {**environment, ENV_PARENT: str(os.getpid()), "PYTHONSAFEPATH": "1"}
        self._worker = worker

    def start_coordinator(self, port: int) -> Process:
        """Start the coordinator on `port`."""
        command = ["clip_trainer.coordinator", "--host", HOST, "--port", str(port)]
        return self._start(self._directory.path / "logs" / "coordinator.log", command, {})

    def start_pod(self, index: int, attempt: int, port: int) -> Process:
        """Start launcher `index` of an attempt, whose workers meet the others at the coordinator on `port`."""
        termination = self._directory.termination_file(index)
        termination.unlink(missing_ok=True)
        threads = self._environment.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // self._spec.max_world))
        environment = pod_environment(self._spec, attempt, port, threads)
        environment["CLIPCTL_TERMINATION_LOG"] = str(termination)
        environment["CLIPCTL_NODE"] = f"worker-{index}"  # the host's name is the same for all of them
        command = ["clip_trainer.launch", str(self._directory.config_file), "--worker", self._worker]
        return self._start(self._directory.pod_log(index), command, environment)

    def termination(self, index: int) -> Any:
        """What launcher `index` said about its end; None if it said nothing."""
        try:
            return json.loads(self._directory.termination_file(index).read_text())
        except (OSError, ValueError):
            return None

    def free_port(self) -> int:
        """A TCP port that is free now."""
        with socket.create_server((HOST, 0)) as server:
            return int(server.getsockname()[1])

    def _start(self, log: Path, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


def pod_environment(spec: RunSpec, attempt: int, port: int, threads: str) -> dict[str, str]:
    """What training-operator and the chart put into a worker's environment, with this machine's addresses.

    Args:
        spec: the run.
        attempt: number of the attempt.
        port: of the coordinator.
        threads: of one rank, unless the run's own `env` says otherwise; all ranks share this machine's cores.
    """
    return {
        "OMP_NUM_THREADS": threads,
        **spec.env,
        "PET_NNODES": f"{spec.scale.nodes.min}:{spec.scale.nodes.max}",
        "PET_NPROC_PER_NODE": str(spec.scale.devices_per_node),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{HOST}:{port}",
        "PET_RDZV_ID": names.rendezvous_id(spec.name, spec.digest(), attempt),
        "PET_RDZV_CONF": _RENDEZVOUS,
        "PET_MAX_RESTARTS": str(spec.retry.restarts_in_place),
        "GLOO_SOCKET_IFNAME": "lo",
        names.ENV_ATTEMPT: str(attempt),
    }


def end(process: Process, seconds: float) -> None:
    """Kill a process that must be gone now; its own children die with it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
