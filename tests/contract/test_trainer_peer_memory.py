"""A sharded run that loses a worker, then a node, and grows again, and never reads a checkpoint."""

import json
import signal

import pytest

from clip_testkit.agents import AgentGroup, wait_until
from clip_testkit.history import judge
from clip_testkit.soak.scene import Scene
from clip_testkit.soak.workload import Workload
from clip_testkit.training import train_ranks, write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.train.events import read_events
from clipctl.contract import layout

pytestmark = pytest.mark.timeout(600)

STEPS = 400  # a worker starts while the others train on: on a busy machine, in more than a hundred of their steps
EVERY = 10
SECONDS = 300
PACE = 0.15


def workload_of(folder, parallel, steps=STEPS, memory_steps=EVERY):
    """A run whose only checkpoint in storage is its last one."""
    config = write_config(
        folder,
        f"{parallel}-{steps}-{memory_steps}",
        str(folder / "data"),
        train={"steps": steps, "learning_rate": 3e-5, "parallel": parallel},
        checkpoint={"path": str(folder / "runs"), "every_steps": 100_000, "memory_steps": memory_steps},
        scale={"nodes": {"min": 1, "max": 2}, "grace_seconds": 20},
    )
    return Workload(config, load_config(config).spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    write_labelled_dataset(folder / "data", (20, 13, 31))
    return folder


def scene_of(folder, workload):
    together = {"PET_RDZV_CONF": "last_call_timeout=60"}  # so that the first group has both, however late one is
    agents = AgentGroup(folder, nodes=2, worker="clip_trainer.main", config=workload.config, environment=together)
    scene = Scene(agents, workload, folder, PACE)
    agents.start_coordinator()
    for index in (0, 1):
        scene.start_agent(index)
    return scene


def wait_for(scene, world, step=0, steps=1):
    """Until a group of so many ranks has done `step`, and each of them `steps`; returns its workers by rank."""

    def reached():
        workers = scene.workers()
        newest = max((worker.reading.generation for worker in workers), default=0)
        group = {worker.reading.rank: worker for worker in workers if worker.reading.generation == newest}
        if not newest or len(group) != world:
            return None
        readings = [worker.reading for worker in group.values()]
        enough = all(reading.step >= step and reading.steps >= steps for reading in readings)
        return group if enough else None

    return wait_until(reached, SECONDS, f"step {step} of {world} ranks\n{scene.group.log()[-6000:]}")


def ends_well(scene):
    codes = [scene.group.wait(index, SECONDS) for index in (0, 1)]
    assert codes == [0, 0], scene.group.log()[-6000:]
    assert scene.workers() == []


def events_of(workload, name):
    return [event for event in read_events(workload.store) if event["event"] == name]


def states(workload):
    """The step with whose state each incarnation began: what storage knew, and what was found in memory besides."""
    copies = [event["incarnation"] for event in events_of(workload, "step") if event.get("copy")]
    return [event["step"] + copies.count(event["incarnation"]) for event in events_of(workload, "started")]


def test_no_checkpoint_is_needed(folder, tmp_path):
    plain, sharded = workload_of(folder, "ddp"), workload_of(folder, "fsdp")
    assert train_ranks(1, plain.config, folder)[0][0] == 0
    scene = scene_of(tmp_path, sharded)
    with scene.group:
        scene.kill(wait_for(scene, world=2, step=15)[1].pid)  # a process: its node still has its memory
        wait_for(scene, world=1, step=20)
        lost = wait_for(scene, world=2, steps=3)[0].agent
        scene.group.agents[lost].send_signal(signal.SIGKILL)  # a node, with its memory
        scene.group.wait(lost)
        wait_for(scene, world=1, step=40)
        scene.start_agent(lost)  # it comes back, with nothing
        wait_for(scene, world=2)
        ends_well(scene)

    started = events_of(sharded, "started")
    assert [event["resumed_from"] for event in started] == [None] * len(started)
    assert [event["step"] for event in events_of(sharded, "checkpoint")] == [STEPS]
    assert json.loads(sharded.store.read(layout.STATUS))["recoveries"] == {"regroup": 2, "grow": 2}
    assert len(started) == 5
    first, killed, grown, lost, grown_again = states(sharded)
    assert first == 0
    assert 10 <= killed < grown <= lost
    assert killed % EVERY == 0, "the newest snapshot"
    assert grown_again >= 40, "kept when the others left, so nothing was done twice"
    assert judge(sharded.store, sharded.spec, plain.store) == []
