"""Real agents, workers and a coordinator as processes of this machine, for tests and benchmarks.

Every process carries a marker in its environment, so that whatever is left over can be found, however it was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clip_testkit.netns import Network
from clip_trainer.elastic.beacon import ENV_BEACON, read_beacon

MARKER = "CLIP_TESTKIT_MARKER"


def processes_with(name: str, value: str) -> dict[int, str]:
    """Command lines of all living processes that have `name=value` in their environment, by pid."""
    wanted = f"{name}={value}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0") and process_state(int(entry.name)) != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def process_state(pid: int) -> str:
    """The state letter of /proc/PID/stat; X if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def pids_by_rank(name: str, value: str) -> dict[int, int]:
    """Process ids of the living workers with `name=value` in their environment, by the rank that their beacon shows.

    A rank that two workers show, an old one that is about to end and its successor, belongs to the newer generation.
    """
    found: dict[int, tuple[int, int]] = {}
    for pid in processes_with(name, value):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            beacons = [text.partition("=")[2] for text in variables if text.startswith(f"{ENV_BEACON}=")]
            reading = read_beacon(Path(beacons[0])) if beacons else None
            if reading is not None and reading.rank >= 0:
                found[reading.rank] = max(found.get(reading.rank, (0, 0)), (reading.generation, pid))
    return {rank: pid for rank, (_, pid) in found.items()}


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago.

    Below the range from which the kernel takes ports for outgoing connections, so that it is still free later: servers
    of tests are killed and come back at the same port.
    """
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until `condition()` is true and return its value. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class AgentGroup:
    """A coordinator and up to `nodes` agents running a worker module. Use as a context manager.

    Args:
        directory: for configuration, logs and whatever the worker writes.
        nodes: most agents; `minimum` of them suffice.
        workers: workers per agent.
        worker: module a worker runs.
        environment: more variables for agents and workers.
        network: hosts for them all, agent `i` on host `i` and the coordinator on host `nodes`; default: this machine.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 1,
        minimum: int = 1,
        workers: int = 1,
        worker: str = "clip_testkit.elastic_probe",
        config: Path | None = None,
        environment: Mapping[str, str] | None = None,
        network: Network | None = None,
    ) -> None:
        self.directory = directory
        self.marker = uuid.uuid4().hex
        self.agents: dict[int, subprocess.Popen[bytes]] = {}
        self.coordinator: subprocess.Popen[bytes] | None = None
        self._network = network
        self._coordinator_host = nodes
        self._address = network.address(nodes) if network else "127.0.0.1"
        self._port = free_port()
        self._worker = worker
        self._config = config or self._write_config()
        self._environment = {
            **os.environ,
            "PET_NNODES": f"{minimum}:{nodes}",
            "PET_NPROC_PER_NODE": str(workers),
            "PET_RDZV_ENDPOINT": f"{self._address}:{self._port}",
            "PET_RDZV_ID": f"test-{self.marker[:8]}",
            "PET_MAX_RESTARTS": "3",
            "GLOO_SOCKET_IFNAME": network.device() if network else "lo",
            "OMP_NUM_THREADS": "1",
            "PROBE_DIR": str(directory),
            "CLIPCTL_PARENT_PID": str(os.getpid()),
            MARKER: self.marker,
            **(environment or {}),
        }

    def __enter__(self) -> AgentGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.agents.values(), *([self.coordinator] if self.coordinator else [])]:
            if process.poll() is None:
                process.kill()
            process.wait()
        for pid in processes_with(MARKER, self.marker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_coordinator(self) -> None:
        """Start the coordinator (again), at the same address."""
        address = ("--host", self._address, "--port", str(self._port))
        self.coordinator = self._start("coordinator", self._coordinator_host, "clip_trainer.coordinator", *address)

    def start_agent(self, index: int = 0, **environment: str) -> None:
        """Start agent `index` (again), perhaps with more variables."""
        termination = str(self.directory / f"termination-{index}.json")
        self.agents[index] = self._start(
            f"agent-{index}",
            index,
            "clip_trainer.launch",
            str(self._config),
            "--worker",
            self._worker,
            **{"CLIPCTL_TERMINATION_LOG": termination, "CLIPCTL_NODE": f"node-{index}", **environment},
        )

    def wait(self, index: int = 0, seconds: float = 120.0) -> int:
        """Exit status of agent `index`, within `seconds`."""
        try:
            return self.agents[index].wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"agent {index} does not end\n{self.log()}") from error

    def ledger(self, event: str | None = None) -> list[dict[str, Any]]:
        """The probes' events so far, oldest first."""
        file = self.directory / "ledger.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        events = [json.loads(line) for line in lines]
        return [line for line in events if event in (None, line["event"])]

    def wait_step(self, step: int, *, world: int | None = None, seconds: float = 120.0) -> dict[str, Any]:
        """The first event of a step `>= step` (in a world of that size)."""

        def reached() -> dict[str, Any] | None:
            for line in self.ledger("step"):
                if line["step"] >= step and world in (None, line["world"]):
                    return line
            return None

        found: dict[str, Any] = wait_until(reached, seconds, f"step {step} in a world of {world}\n{self.log()}")
        return found

    def termination(self, index: int = 0) -> dict[str, Any]:
        """What agent `index` left as termination message."""
        message: dict[str, Any] = json.loads((self.directory / f"termination-{index}.json").read_text())
        return message

    def log(self) -> str:
        """Everything all processes have printed."""
        return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in sorted(self.directory.glob("*.log")))

    def left_over(self) -> dict[int, str]:
        """Living processes of this group, by pid."""
        return processes_with(MARKER, self.marker)

    def _start(self, name: str, host: int, module: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, *arguments]
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self._network.command(host, command) if self._network else command,
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _write_config(self) -> Path:
        file = self.directory / "config.json"
        file.write_text(json.dumps({"spec": {"name": "probe", "scale": {"grace_seconds": 60}}, "spec_digest": "0"}))
        return file
