"""The real trainer on this machine: its workers are killed, rank 0 too, and nobody can tell from the result."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from clip_testkit.agents import MARKER, processes_with, wait_until
from clip_testkit.history import judge
from clip_testkit.training import write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.train.events import read_events, trajectory
from clipctl.backends.base import Plan, SubmitOptions
from clipctl.backends.local import LocalBackend
from clipctl.contract.store import open_store

pytestmark = pytest.mark.timeout(600)

STEPS = 60


def config_of(folder, name):
    changes = {
        "train": {"global_batch": 24, "steps": STEPS},
        "checkpoint": {"every_steps": 5},
        "scale": {"nodes": {"min": 1, "max": 2}},
        "data": {"threads": 1},
    }
    return write_config(folder, name, str(folder / "data"), **changes)


def incarnations(store):
    return [event for event in read_events(store) if event["event"] == "started"]


def steps_of(store, incarnation):
    return [e for e in read_events(store) if e["event"] == "step" and e["incarnation"] >= incarnation]


def worker(marker, rank):
    """Process id of the trainer that is `rank`."""
    for pid, command in processes_with(MARKER, marker).items():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if "elastic.boot" in command and f"RANK={rank}".encode() in environment:
            return pid
    return None


@pytest.fixture
def marker(tmp_path):
    """Marks every process of the test, so that none outlives it."""
    yield str(tmp_path)
    for pid in processes_with(MARKER, str(tmp_path)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_killing_a_worker_and_then_rank_0_changes_nothing(tmp_path, monkeypatch, marker):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_labelled_dataset(tmp_path / "data", [40, 35, 25])
    backend = LocalBackend({**os.environ, "CLIPCTL_HOME": str(tmp_path / "home"), MARKER: marker})
    calm = submit(backend, tmp_path, "calm")
    wait_for_end(backend, "calm")

    spec = submit(backend, tmp_path, "stormy")
    store = open_store(spec.root)
    for number, rank in enumerate((1, 0), start=1):
        wait_until(lambda n=number: len(incarnations(store)) >= n, 200, f"incarnation {number}")
        newest = incarnations(store)[-1]["incarnation"]
        wait_until(lambda i=newest: store.read_version("status.json") and steps_of(store, i), 200, "steps")
        os.kill(wait_until(lambda r=rank: worker(marker, r), 20, f"rank {rank}"), signal.SIGKILL)
    wait_for_end(backend, "stormy")

    assert len(incarnations(store)) >= 3
    assert {event["world"] for event in incarnations(store)} == {2}
    undisturbed = open_store(calm.root)
    assert judge(store, spec, undisturbed) == []
    # The number of ranks never changed, so not even rounding differs.
    assert losses(store) == losses(undisturbed)
    wait_until(lambda: not processes_with(MARKER, marker), 20, "all processes of the run to be gone")


def submit(backend, folder, name):
    spec = load_config(config_of(folder, name)).spec
    backend.submit(Plan(spec, "run.yaml"), SubmitOptions())
    return spec


def wait_for_end(backend, name):
    wait_until(lambda: backend.status(name).state in {"Succeeded", "Failed"}, 250, f"the end of {name}")
    assert backend.status(name).state == "Succeeded"


def losses(store):
    return [event["loss"] for event in trajectory(read_events(store))]
