"""The real trainer on this machine: its workers are killed, rank 0 too, and nobody can tell from the result."""

import contextlib
import os
import signal

import pytest

from clip_testkit.agents import MARKER, pids_by_rank, processes_with, wait_until
from clip_testkit.history import judge
from clip_testkit.soak.scene import PACE
from clip_testkit.training import write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.train.events import read_events, trajectory
from clipctl.backends.base import Plan, SubmitOptions
from clipctl.backends.local import LocalBackend
from clipctl.contract.failpoints import ENV
from clipctl.contract.store import open_store

pytestmark = pytest.mark.timeout(600)

STEPS = 60


def config_of(folder, name):
    changes = {
        "train": {"global_batch": 24, "steps": STEPS},
        "checkpoint": {"every_steps": 5},
        # Two at least: the survivor waits for the other one, so that even rounding is the same.
        "scale": {"nodes": {"min": 2, "max": 2}},
        "data": {"threads": 1},
    }
    return write_config(folder, name, str(folder / "data"), **changes)


def incarnations(store):
    return [event for event in read_events(store) if event["event"] == "started"]


def steps_of(store):
    return [event for event in read_events(store) if event["event"] == "step"]


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
    environment = {**os.environ, "CLIPCTL_HOME": str(tmp_path / "home"), MARKER: marker}
    backend = LocalBackend(environment)
    calm = submit(backend, tmp_path, "calm")
    wait_for_end(backend, "calm")

    # Steps take milliseconds: without a pace the run could end before this process gets to see and kill anybody.
    spec = submit(LocalBackend({**environment, ENV: PACE.format(seconds=0.2)}), tmp_path, "stormy")
    store = open_store(spec.root)
    for rank in (1, 0):
        # Steps of the group as it is now, with all its workers.
        before = len(steps_of(store))
        wait_until(lambda n=before: len(steps_of(store)) > n + 3, 250, f"steps before rank {rank} is killed")
        os.kill(wait_until(lambda r=rank: pids_by_rank(MARKER, marker).get(r), 60, f"rank {rank}"), signal.SIGKILL)
    wait_for_end(backend, "stormy")

    # Who loses rank 1 keeps its process and its place; only another rank 0 makes another incarnation.
    assert [event["incarnation"] for event in incarnations(store)] == [1, 2]
    assert {event["world"] for event in incarnations(store)} == {2}
    undisturbed = open_store(calm.root)
    assert judge(store, spec, undisturbed) == []
    # The number of ranks never changed, so not even rounding differs.
    assert losses(store) == losses(undisturbed)
    wait_until(lambda: not processes_with(MARKER, marker), 90, "all processes of the run to be gone")


def submit(backend, folder, name):
    spec = load_config(config_of(folder, name)).spec
    backend.submit(Plan(spec, "run.yaml"), SubmitOptions())
    return spec


def wait_for_end(backend, name):
    wait_until(lambda: backend.status(name).state in {"Succeeded", "Failed"}, 250, f"the end of {name}")
    assert backend.status(name).state == "Succeeded"


def losses(store):
    return [event["loss"] for event in trajectory(read_events(store))]
