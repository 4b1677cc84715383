"""One attempt of a local run: its launchers and their coordinator, restarted as long as their budget lasts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from clipctl.backends import localpods
from clipctl.backends.localpods import Process, Processes
from clipctl.backends.localpolicy import PodEnd, may_restart, pod_backoff, read_pod_end
from clipctl.backends.localstate import PodState
from clipctl.contract import names
from clipctl.contract.errors import ExitCode
from clipctl.contract.spec import RunSpec

FINISH_SECONDS = 90.0
"""Longest time for the other launchers to end once one says that the run is complete."""
COORDINATOR_RESTARTS = 10
"""Restarts of the coordinator before the attempt counts as failed; it may have lost its port."""
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended; `end` is None if the run is complete."""

    end: PodEnd | None


@dataclass
class _Pod:
    index: int
    process: Process | None = None
    started_at: float | None = None
    start_again_at: float | None = None
    restarts: int = 0
    end: PodEnd | None = None
    succeeded: bool = False

    @property
    def name(self) -> str:
        return f"worker-{self.index}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Attempt:
    """Advance it with `tick` until that returns a verdict.

    Attributes:
        spec: what to run.
        number: of the attempt; part of the rendezvous id.
        processes: starts them.
        clock: seconds.
    """

    spec: RunSpec
    number: int
    processes: Processes
    clock: Callable[[], float]
    port: int | None = None
    _pods: list[_Pod] = field(default_factory=list)
    _coordinator: Process | None = None
    _coordinator_restarts: int = 0
    _complete_at: float | None = None

    def start(self) -> None:
        """Start the coordinator and all launchers; they wait for each other."""
        self.port = self.processes.free_port()
        self._coordinator = self.processes.start_coordinator(self.port)
        self._pods = [_Pod(index) for index in range(self.spec.scale.nodes.max)]
        for pod in self._pods:
            self._launch(pod)

    def tick(self) -> Verdict | None:
        """Look at every process and act on what has ended; the verdict once the attempt is over."""
        lost = self._look_after_coordinator()
        if lost is not None:
            return lost
        for pod in self._pods:
            verdict = self._look_after(pod)
            if verdict is not None:
                return verdict
        if self._complete_at is not None:
            late = self.clock() - self._complete_at > FINISH_SECONDS
            return Verdict(None) if late or not self.running() else None
        return None

    @property
    def state(self) -> str:
        """State of the run while this attempt goes on."""
        if any(pod.running for pod in self._pods):
            return names.STATE_RUNNING
        return names.STATE_RESTARTING

    @property
    def reason(self) -> str:
        """Why it is not simply running; empty if it is."""
        waiting = [pod.end.cause for pod in self._pods if pod.end is not None and pod.start_again_at is not None]
        return waiting[0] if waiting else ""

    def pods(self) -> tuple[PodState, ...]:
        """The launchers as `clipctl status` shows them."""
        return tuple(_shown(pod) for pod in self._pods)

    def running(self) -> bool:
        """Whether any launcher runs."""
        return any(pod.running for pod in self._pods)

    def terminate(self) -> None:
        """Ask all launchers to checkpoint and end; none is started again."""
        for pod in self._pods:
            pod.start_again_at = None
            if pod.running and pod.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    pod.process.send_signal(signal.SIGTERM)

    def closing_verdict(self) -> Verdict | None:
        """What the launchers' ends say after `terminate`: complete, a permanent error, or None if merely stopped."""
        ends = []
        for pod in self._pods:
            status = None if pod.process is None else pod.process.poll()
            if status == 0:
                return Verdict(None)
            if status is not None:
                ends.append(read_pod_end(pod.name, status, self.processes.termination(pod.index)))
        permanent = [end for end in ends if end.permanent]
        return Verdict(permanent[0]) if permanent else None

    def kill(self) -> None:
        """End everything that still runs."""
        for pod in self._pods:
            if pod.running and pod.process is not None:
                localpods.end(pod.process, _KILL_SECONDS)
        if self._coordinator is not None and self._coordinator.poll() is None:
            localpods.end(self._coordinator, _KILL_SECONDS)

    def _launch(self, pod: _Pod) -> None:
        assert self.port is not None
        pod.process = self.processes.start_pod(pod.index, self.number, self.port)
        pod.started_at, pod.start_again_at = self.clock(), None

    def _look_after_coordinator(self) -> Verdict | None:
        if self._coordinator is None or self._coordinator.poll() is None:
            return None
        if self._coordinator_restarts >= COORDINATOR_RESTARTS:
            message = f"the coordinator ends again and again (exit code {self._coordinator.poll()})"
            return Verdict(PodEnd(ExitCode.UNAVAILABLE, names.CAUSE_INFRASTRUCTURE, message))
        self._coordinator_restarts += 1
        assert self.port is not None
        self._coordinator = self.processes.start_coordinator(self.port)
        return None

    def _look_after(self, pod: _Pod) -> Verdict | None:
        if pod.start_again_at is not None and self.clock() >= pod.start_again_at and self._complete_at is None:
            self._launch(pod)
        status = None if pod.process is None else pod.process.poll()
        if status is None or pod.start_again_at is not None or pod.succeeded:
            return None
        if status == 0:
            pod.succeeded = True
            self._complete_at = self._complete_at or self.clock()
            return None
        pod.end = read_pod_end(pod.name, status, self.processes.termination(pod.index))
        if self._complete_at is not None:
            return None
        if not may_restart(pod.end, pod.restarts, self.spec.retry):
            return Verdict(pod.end)
        pod.restarts += 1
        pod.start_again_at = self.clock() + pod_backoff(pod.restarts)
        return None


def _shown(pod: _Pod) -> PodState:
    phase, reason = "Pending", ""
    if pod.running:
        phase = "Running"
    elif pod.succeeded:
        phase = "Succeeded"
    elif pod.end is not None:
        phase, reason = ("Restarting" if pod.start_again_at is not None else "Failed"), pod.end.message
    elif pod.process is not None:
        phase = "Stopped"
    pid = pod.process.pid if pod.running and pod.process is not None else None
    return PodState(pod.name, phase, reason, pod.restarts, pid, pod.started_at)
