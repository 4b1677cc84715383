"""A local run from submission to deletion, with real processes and every kind of sudden death."""

import contextlib
import json
import os
import signal

import pytest

from clip_testkit.agents import MARKER, processes_with, wait_until
from clipctl.backends.base import Plan, SubmitOptions
from clipctl.backends.local import LocalBackend
from clipctl.contract.spec import RunSpec

pytestmark = pytest.mark.timeout(280)


class Run:
    def __init__(self, tmp_path):
        self.directory = tmp_path
        self.marker = tmp_path.as_posix()
        environment = {
            **os.environ,
            "CLIPCTL_HOME": str(tmp_path / "home"),
            "PROBE_DIR": str(tmp_path),
            "PROBE_STEPS": "1000000",
            MARKER: self.marker,
        }
        environment.pop("CLIPCTL_PARENT_PID", None)
        self.backend = LocalBackend(environment, worker="clip_testkit.elastic_probe")

    def submit(self, *, replace=False, **env):
        spec = {
            "name": "probe",
            "model": {"name": "ViT-tiny-8-32"},
            "data": {"train": "/data"},
            "train": {"global_batch": 8, "steps": 10},
            "checkpoint": {"path": str(self.directory / "stored")},
            "scale": {"devices_per_node": 2, "grace_seconds": 60},  # on a busy machine a stop takes its time
            "env": env,
        }
        plan = Plan(RunSpec.model_validate(spec), "run.yaml")
        return self.backend.submit(plan, SubmitOptions(replace=replace)).action

    def status(self):
        return self.backend.status("probe")

    def processes(self):
        return processes_with(MARKER, self.marker)

    def wait_gone(self):
        wait_until(lambda: not self.processes(), 90, "all processes of the run to be gone")

    def ledger(self, event):
        file = self.directory / "ledger.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def wait_for_steps(self):
        """Wait until the workers that run now have taken a step together."""
        before = len(self.ledger("step"))

        def stepping():
            living = self.processes()
            return [line for line in self.ledger("step")[before:] if line["pid"] in living and line["world"] == 2]

        return wait_until(stepping, 90, f"steps\n{chr(10).join(self.backend.logs('probe', False, None))}")[-1]


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    yield made
    for pid in made.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_life_of_a_local_run(run):
    assert run.submit() == "created"
    assert run.submit() == "unchanged"
    step = run.wait_for_steps()
    assert (step["world"], step["attempt"]) == (2, 1)
    # The workers may be faster than the supervisor's next word about them.
    wait_until(
        lambda: (run.status().state, [p.phase for p in run.status().pods]) == ("Running", ["Running"]), 60, "Running"
    )

    wait_until((run.directory / "checkpoint").exists, 60, "a checkpoint")

    # The supervisor is killed: nothing of the run survives, status says so, and the same file resumes it.
    (supervisor,) = [pid for pid, command in run.processes().items() if "supervisor" in command]
    assert len(run.processes()) == 5  # supervisor, store, launcher, two workers
    os.kill(supervisor, signal.SIGKILL)
    run.wait_gone()
    assert (run.status().state, run.status().reason) == ("Failed", "Interrupted")
    assert run.submit() == "resumed"
    step = run.wait_for_steps()
    assert step["attempt"] == 2
    assert run.ledger("start")[-1]["step"] >= 5  # from the checkpoint

    # The launcher is killed: its workers die with it, and it is started again.
    (launcher,) = [pid for pid, command in run.processes().items() if "clip_trainer.launch" in command]
    os.kill(launcher, signal.SIGKILL)
    wait_until(lambda: run.status().pods[0].restarts == 1, 90, "the restart")
    run.wait_for_steps()
    assert len(run.processes()) == 5

    # Stop: the workers write a checkpoint; nothing is left.
    run.backend.stop("probe")
    assert (run.status().state, run.status().exit_code) == ("Stopped", 75)
    run.wait_gone()
    stopped_at = run.ledger("stopped")[-1]["step"]

    # Another spec takes over its checkpoint on demand, and the run ends.
    steps = str(stopped_at + 20)
    assert run.submit(replace=True, PROBE_STEPS=steps) == "replaced"
    lines = list(run.backend.logs("probe", follow=True, rank=1))
    assert any("starts at step" in line for line in lines)
    assert all(line.startswith("[rank 1] ") for line in lines)
    assert (run.status().state, run.status().exit_code) == ("Succeeded", 0)
    assert run.ledger("start")[-1]["step"] == stopped_at
    assert run.submit(PROBE_STEPS=steps) == "unchanged"
    run.wait_gone()
    run.backend.delete("probe")
    assert run.backend.list() == []


def test_permanent_error_is_reported_in_words(run):
    (run.directory / "always-fail").write_text("66")
    run.submit()
    wait_until(lambda: run.status().finished_at, 60, "the end")
    status = run.status()
    assert (status.state, status.reason, status.exit_code) == ("Failed", "PermanentError", 66)
    assert "rank 0" in status.message or "rank 1" in status.message
    run.wait_gone()
