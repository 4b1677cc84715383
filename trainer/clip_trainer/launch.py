"""`python -m clip_trainer.launch CONFIG.json`: keep this node's workers running, elastically.

It takes torchrun's PET_* variables and does torchrun's work without torch, and differs where a run needs it:

- a worker that dies or hangs is replaced alone; the others keep their processes and go on without it meanwhile;
- the exit status is the root cause's, not a flat 1, and `/dev/termination-log` says more;
- errors that cannot be mended by trying again end the run on all nodes at once;
- it outlives the coordinator, and its workers never outlive it;
- progress refills the budget of restarts.

Everything is written to stdout: workers' lines with `[rank N] ` in front (`[local rank N] ` before they have one), the
agent's own with `[agent] `.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from clip_trainer.elastic.agent import Agent, Hooks
from clip_trainer.elastic.coordinator_server import CoordinatorServer
from clip_trainer.elastic.cpus import usable_cpus
from clip_trainer.elastic.environment import AgentPlace, worker_environment
from clip_trainer.elastic.memory import oom_kills
from clip_trainer.elastic.orphan import ENV_PARENT, die_with_parent
from clip_trainer.elastic.progress import read_progress
from clip_trainer.elastic.scratch import default_parent, scratch_directory
from clip_trainer.elastic.settings import DEFAULT_TERMINATION_LOG, LaunchSettings
from clip_trainer.elastic.slot import Slot, SlotHooks
from clip_trainer.elastic.verdict import RunVerdict
from clip_trainer.elastic.watchdog import HealthLimits
from clip_trainer.elastic.workers import LineSink, Worker
from clipctl.contract.errors import ClipError, CorruptError, MissingError

DEFAULT_GRACE = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run the agent until the run is over here; returns the exit status."""
    parser = argparse.ArgumentParser(prog="clip_trainer.launch", description="Run this node's workers.")
    parser.add_argument("config", type=Path, help="the run's CONFIG.json")
    parser.add_argument("--worker", default="clip_trainer.main", metavar="MODULE", help="what a worker runs")
    options = parser.parse_args(arguments)
    if ENV_PARENT in os.environ:
        die_with_parent()
    try:
        return _run(options.config, options.worker)
    except ClipError as error:
        print(f"[agent] {error}", flush=True)
        return int(error.code)


def checkpoint_grace(config: Path) -> float:
    """Seconds between SIGTERM and the moment the workers are killed: the pod's grace period less a reserve.

    The reserve (a fifth, at most 5 s) is for ending in order before the kubelet kills everything.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is not a run's configuration.
    """
    try:
        grace = json.loads(config.read_text())["spec"].get("scale", {}).get("grace_seconds", DEFAULT_GRACE)
        seconds = float(grace)
    except OSError as error:
        raise MissingError(f"cannot read the run's configuration {config}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{config} is not a run's configuration ({error}).") from error
    return seconds - min(5.0, seconds / 5)


def health_limits(config: Path) -> HealthLimits:
    """The watchdog's limits: `health.hang_seconds` of the run, or the default.

    Raises:
        CorruptError: the file is not a run's configuration.
    """
    default = HealthLimits()
    try:
        health = json.loads(config.read_text())["spec"].get("health", {})
        return replace(default, hang_seconds=float(health.get("hang_seconds", default.hang_seconds)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{config} is not a run's configuration ({error}).") from error


def _run(config: Path, worker: str) -> int:
    grace, limits = checkpoint_grace(config), health_limits(config)
    settings = LaunchSettings.from_environment(os.environ)
    sink = LineSink(sys.stdout.buffer)
    command = [sys.executable, "-u", "-m", "clip_trainer.elastic.boot", worker, str(config)]

    def log(line: str) -> None:
        sink.write(b"[agent] ", line.encode())

    with (
        scratch_directory(default_parent()) as scratch,
        _coordination(settings) as (endpoint, verdict),
    ):
        place = AgentPlace(endpoint, os.getpid(), secrets.token_hex(2), scratch, usable_cpus())

        def spawn(slot: int, start: int) -> Worker:
            return Worker(slot, command, worker_environment(os.environ, settings, place, slot, start), sink)

        slot_hooks = SlotHooks(spawn, lambda: read_progress(place.progress_file), log)
        slots = [Slot(n, settings.max_restarts, limits, slot_hooks) for n in range(settings.workers_per_node)]
        agent = Agent(slots, grace, settings.monitor_interval, Hooks(verdict, oom_kills, log))
        signal.signal(signal.SIGTERM, agent.request_stop)
        signal.signal(signal.SIGINT, agent.request_stop)
        outcome = agent.run()
    log(f"{outcome.message}; exit code {outcome.code}")
    if outcome.code:
        _write_termination_log(settings.termination_log, json.dumps(asdict(outcome)))
    return outcome.code


@contextmanager
def _coordination(settings: LaunchSettings) -> Iterator[tuple[str, RunVerdict]]:
    """Where the coordinator is, and what it says about the run. A run of one node has its coordinator here."""
    server = None if settings.endpoint else CoordinatorServer().start()
    endpoint = settings.endpoint if server is None else f"127.0.0.1:{server.port}"
    try:
        verdict = RunVerdict(endpoint, settings.rendezvous_id)
        try:
            yield endpoint, verdict
        finally:
            verdict.stop()
    finally:
        if server is not None:
            server.stop()


def _write_termination_log(path: Path, text: str) -> None:
    """Kubernetes shows this file's content as the container's termination message; elsewhere it need not exist."""
    if path == Path(DEFAULT_TERMINATION_LOG) and not path.exists():
        return
    try:
        path.write_text(text)
    except OSError as error:
        print(f"[agent] cannot write {path}: {error.strerror}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
