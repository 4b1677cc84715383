"""Agents, workers, coordinator and storage of a run, with everything that can be done to them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clip_testkit.agents import AgentGroup, process_state
from clip_testkit.s3fault import FaultServer
from clip_testkit.soak.workload import Workload
from clip_testkit.tmpfs import SmallDisk
from clip_trainer.elastic.beacon import ENV_BEACON, Reading, read_beacon
from clipctl.contract.failpoints import ENV as ENV_FAILPOINTS
from clipctl.contract.failpoints import ENV_DIRECTORY

PACE = "train.before_update=pause:{seconds}"
"""Rule that makes every step last at least so long: a busy machine and an idle one then do about as many steps."""


@dataclass(frozen=True)
class Victim:
    """A living worker."""

    pid: int
    agent: int
    reading: Reading


class Scene:
    """One run while it is disturbed.

    Args:
        group: its processes.
        workload: what it trains.
        directory: for what the failpoints leave behind.
        pace: seconds that a step lasts at least.
        disk: its file system, if it has one of its own.
        server: its storage's fault proxy, if it is on S3.
    """

    def __init__(
        self,
        group: AgentGroup,
        workload: Workload,
        directory: Path,
        pace: float,
        disk: SmallDisk | None = None,
        server: FaultServer | None = None,
    ) -> None:
        self.group = group
        self.workload = workload
        self.disk = disk
        self.server = server
        self.damaged: set[str] = set()
        self.stopped: set[int] = set()
        self._directory = directory
        self._pace = PACE.format(seconds=pace)
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._starts = 0
        self._armed: set[int] = set()

    def start_agent(self, index: int, rules: str = "") -> None:
        """Start an agent, perhaps with failpoints."""
        self._starts += 1
        directory = self._directory / f"failpoints-{self._starts}"
        directory.mkdir(parents=True)
        variables = {ENV_FAILPOINTS: ";".join(filter(None, (self._pace, rules))), ENV_DIRECTORY: str(directory)}
        self.stopped.discard(index)
        (self._armed.add if rules else self._armed.discard)(index)
        self.group.start_agent(index, **variables)

    def end_agent(self, index: int, number: signal.Signals, seconds: float, rules: str = "") -> None:
        """Send an agent a signal, and start it again some seconds after its end, unless the run is over by then."""
        self.group.agents[index].send_signal(number)
        self._start_again(index, seconds, rules)

    def _start_again(self, index: int, seconds: float, rules: str) -> None:
        self.stopped.add(index)

        def again() -> None:
            if self.group.agents[index].poll() is None:
                self.later(0.1, again)  # it still writes its checkpoint
            elif self.complete:
                self.stopped.discard(index)
            else:
                self.start_agent(index, rules)

        self.later(seconds, again)

    @property
    def complete(self) -> bool:
        """Whether some agent has ended because the run is complete."""
        return any(agent.poll() == 0 for agent in self.group.agents.values())

    @property
    def ended(self) -> bool:
        """Whether all agents have ended, and none is to be started again."""
        return not self.stopped and all(agent.poll() is not None for agent in self.group.agents.values())

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in some seconds."""
        self._later.append((time.monotonic() + seconds, action))

    def do_what_is_due(self) -> None:
        """To be called again and again."""
        now = time.monotonic()
        due = [action for at, action in self._later if at <= now]
        self._later = [(at, action) for at, action in self._later if at > now]
        for action in due:
            action()
        for index in self._armed - self.stopped:
            if self.group.agents[index].poll() == -signal.SIGKILL:  # a failpoint was in the agent itself
                self._start_again(index, 0.5, "")

    def running_agents(self) -> list[int]:
        """Agents that run and were not told to end."""
        return [i for i, agent in sorted(self.group.agents.items()) if agent.poll() is None and i not in self.stopped]

    def workers(self) -> list[Victim]:
        """Workers that run and have a beacon, by agent."""
        found = []
        for pid in self.group.left_over():
            variables = _environment(pid)
            reading = read_beacon(Path(variables[ENV_BEACON])) if variables.get(ENV_BEACON) else None
            if reading is not None and process_state(pid) in "RSD":
                found.append(Victim(pid, int(variables["CLIPCTL_NODE"].rpartition("-")[2]), reading))
        return sorted(found, key=lambda victim: (victim.agent, victim.pid))

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process that may be gone by now."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def renew_coordinator(self, seconds: float) -> None:
        """Kill the coordinator, and start another one at its address some seconds later."""
        assert self.group.coordinator is not None
        self.group.coordinator.kill()
        self.group.coordinator.wait()
        self.later(seconds, self.group.start_coordinator)

    def choose(self, victims: list[Victim], chance: random.Random) -> Victim | None:
        """One of them; None if there is none."""
        return chance.choice(victims) if victims else None


def _environment(pid: int) -> Mapping[str, str]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0"))
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in pairs}
