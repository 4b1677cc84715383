"""`python -m clip_trainer.launch CONFIG.json`: run this node's workers, elastically.

It takes torchrun's PET_* variables and does torchrun's work with torch's rendezvous, and differs where a run needs it:

- the exit status is the root cause's, not a flat 1, and `/dev/termination-log` says more;
- errors that cannot be mended by trying again end the run on all nodes at once;
- it outlives the rendezvous store, and its workers never outlive it;
- progress refills the budget of restarts.

Everything is written to stdout: workers' lines with `[rank N] ` in front, the agent's own with `[agent] `.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from clip_trainer.elastic.orphan import ENV_PARENT, die_with_parent
from clip_trainer.elastic.settings import DEFAULT_TERMINATION_LOG, LaunchSettings
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


def _run(config: Path, worker: str) -> int:
    grace = checkpoint_grace(config)
    for_workers = dict(os.environ)
    # A lost store is daily business here and reported in one line; torch's C++ part prints a page about each try.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    # torch from here on.
    from clip_trainer.elastic.agent import Agent, Hooks
    from clip_trainer.elastic.cpus import usable_cpus
    from clip_trainer.elastic.environment import worker_environments
    from clip_trainer.elastic.memory import oom_kills
    from clip_trainer.elastic.progress import read_progress
    from clip_trainer.elastic.rendezvous import C10dMeeting
    from clip_trainer.elastic.workers import LineSink, Workers

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    settings = LaunchSettings.from_environment(os.environ)
    sink = LineSink(sys.stdout.buffer)
    command = [sys.executable, "-u", "-m", "clip_trainer.elastic.boot", worker, str(config)]
    with tempfile.TemporaryDirectory(prefix="clip-agent-") as scratch:
        progress_file = Path(scratch) / "progress"
        environments = functools.partial(
            worker_environments,
            for_workers,
            settings,
            agent_pid=os.getpid(),
            progress_file=str(progress_file),
            cpus=usable_cpus(),
        )
        hooks = Hooks(
            connect=lambda: C10dMeeting(settings),
            environments=environments,
            progress=lambda: read_progress(progress_file),
            oom_kills=oom_kills,
            log=lambda line: sink.write(b"[agent] ", line.encode()),
        )
        agent = Agent(settings, Workers(command, sink), grace, hooks)
        signal.signal(signal.SIGTERM, agent.request_stop)
        signal.signal(signal.SIGINT, agent.request_stop)
        outcome = agent.run()
    hooks.log(f"{outcome.message}; exit code {outcome.code}")
    if outcome.code:
        _write_termination_log(settings.termination_log, json.dumps(asdict(outcome)))
    return outcome.code


def _write_termination_log(path: Path, text: str) -> None:
    """Kubernetes shows this file's content as the container's termination message; elsewhere it need not exist."""
    if path == Path(DEFAULT_TERMINATION_LOG) and not path.exists():
        return
    try:
        path.write_text(text)
    except OSError as error:
        print(f"[agent] cannot write {path}: {error.strerror}", flush=True)


if __name__ == "__main__":
    # No interpreter shutdown: the threads of torch's rendezvous may be inside its C++ part, and ending them there
    # aborts the process ("terminate called without an active exception"): a finished run would look like a crash.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
