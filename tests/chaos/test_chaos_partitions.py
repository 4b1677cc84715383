"""Hosts of a run are cut off by a network that loses every packet, and come back. Storage they reach all the time.

That is the dangerous case: whoever is cut off lives, computes, and could write. Needs root.
"""

import contextlib
import os
import time
from itertools import pairwise

import pytest

from clip_testkit.agents import AgentGroup, wait_until
from clip_testkit.netns import network
from clip_testkit.soak.scene import PACE, Scene
from clip_testkit.soak.verdict import Ending, decide
from clip_testkit.soak.workload import prepare, undisturbed
from clip_trainer.elastic.sockets import VANISHED_SECONDS
from clip_trainer.train.events import read_events
from clipctl.contract import layout
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.failpoints import ENV, ENV_DIRECTORY

STEPS = 120
STEP_SECONDS = 0.15
STEADY = 2
"""A generation that has done so many steps is one that trains."""
PATIENCE = 120
ASLEEP = 8.0
"""So long a save sleeps before it would commit: longer than it takes to notice that a host has vanished."""
SLEEPING_SAVE = f"checkpoint.before_commit=pause:{ASLEEP}!once;checkpoint.manifest_stored=note"

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", STEPS, 3)


class Stage:
    """A run with every agent, and the coordinator, on a host of its own."""

    def __init__(self, scene, hosts, coordinator, folder):
        self.scene, self.group, self.store = scene, scene.group, scene.workload.store
        self.hosts, self.coordinator = hosts, coordinator
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir()
        self.first_steps = {}  # where a generation was when it was seen first, by its number
        self.began = time.monotonic()

    def start(self, agent, rules=""):
        variables = {
            ENV: ";".join(filter(None, (PACE.format(seconds=STEP_SECONDS), rules))),
            ENV_DIRECTORY: self.failpoints,
        }
        self.group.start_agent(agent, **{name: str(value) for name, value in variables.items()})

    def say(self, what):
        print(f"{time.monotonic() - self.began:6.2f} s: {what}")

    def wait(self, condition, what):
        """Wait for it, and say after how long it has come."""
        began = time.monotonic()
        try:
            wait_until(condition, PATIENCE, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.group.log()}") from error
        self.say(f"{what}, after {time.monotonic() - began:.2f} s")

    def workers(self):
        """The worker of each agent."""
        return {worker.agent: worker for worker in self.scene.workers()}

    def together(self, *agents, after=0):
        """Whether these agents' workers alone form a generation newer than `after`, and have done some steps in it."""
        found = {agent: worker.reading for agent, worker in self.workers().items()}
        inside = [found[agent] for agent in agents if agent in found]
        number = max((reading.generation for reading in found.values()), default=0)
        members = {agent for agent, reading in found.items() if reading.generation == number}
        if number <= after or members != set(agents) or {reading.rank for reading in inside} != set(range(len(agents))):
            return False
        first = self.first_steps.setdefault(number, max(0, *(reading.step for reading in inside)))
        return min(reading.step for reading in inside) >= first + STEADY

    def noted(self, name, pid):
        """Whether that process has come to that failpoint."""
        file = self.failpoints / "fired"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return any((line[0], line[2]) == (name, str(pid)) for line in lines)

    def events(self, name):
        return [event for event in read_events(self.store) if event["event"] == name]


@contextlib.contextmanager
def staged(folder, nodes):
    workload = prepare(folder / "run", STEPS, 3)
    options = {"nodes": nodes, "worker": "clip_trainer.main", "config": workload.config}
    with network(nodes + 1) as hosts, AgentGroup(folder, **options, network=hosts) as group:
        group.start_coordinator()
        yield Stage(Scene(group, workload, folder, STEP_SECONDS), hosts, nodes, folder)


def assert_it_ends_well(stage, reference):
    """Every step is done once, on the right samples, with the right loss; nobody wrote who was not to."""
    stage.wait(lambda: stage.scene.ended, "the end of the run")
    codes = {agent: process.poll() for agent, process in stage.group.agents.items()}
    stage.group.coordinator.terminate()
    stage.group.coordinator.wait()
    verdict = decide(stage.store, stage.scene.workload.spec, reference.store, (), Ending(codes))
    assert verdict.problems == (), stage.group.log()
    assert verdict.steps == STEPS
    assert commits_that_came_too_late(stage.store) == []


def commits_that_came_too_late(store):
    """Checkpoints that were committed when a newer incarnation had taken over."""

    def written(key):
        return os.stat(os.path.join(store.root, key)).st_mtime

    incarnations = sorted(info.key for info in store.list(layout.INCARNATIONS))
    ends = {layout.parse_incarnation_key(key): written(later) for key, later in pairwise(incarnations)}
    return [
        str(checkpoint)
        for checkpoint in list_checkpoints(store)
        if written(layout.commit_key(checkpoint)) > ends.get(checkpoint.incarnation, float("inf"))
    ]


def test_rank_0_and_then_another_worker_are_cut_off_and_come_back(reference, tmp_path):
    with staged(tmp_path, nodes=3) as stage:
        for agent in range(3):
            stage.start(agent, SLEEPING_SAVE)
        stage.wait(lambda: stage.together(0, 1, 2), "three workers train")
        at_first = stage.workers()
        first = next(agent for agent, worker in at_first.items() if worker.reading.rank == 0)
        stage.wait(lambda: stage.noted("checkpoint.before_commit", at_first[first].pid), "rank 0 is about to commit")

        others = [agent for agent in range(3) if agent != first]
        before = is_cut_off(stage, first)
        stage.wait(lambda: stage.together(*others, after=before.generation), "the others go on without rank 0")
        stage.wait(lambda: stage.noted("checkpoint.manifest_stored", at_first[first].pid), "rank 0 tries to commit")
        assert_it_has_stood_still(stage, first, before)
        comes_back(stage, first, "the old rank 0")

        last = next(agent for agent, worker in stage.workers().items() if worker.reading.rank == 1)
        others = [agent for agent in range(3) if agent != last]
        again = is_cut_off(stage, last)
        stage.wait(lambda: stage.together(*others, after=again.generation), "the others go on without a worker")
        assert_it_has_stood_still(stage, last, again)
        comes_back(stage, last, "the worker")
        assert {agent: worker.pid for agent, worker in stage.workers().items()} == {
            agent: worker.pid for agent, worker in at_first.items()
        }

        assert_it_ends_well(stage, reference)
        changes = [event for event in stage.events("regrouped") if event["generation"] > before.generation]
        assert [(event["rung"], len(event["lost"]), len(event["joined"])) for event in changes] == [
            ("regroup", 1, 0),
            ("grow", 0, 1),
            ("regroup", 1, 0),
            ("grow", 0, 1),
        ]
        assert [event["incarnation"] for event in stage.events("started")] == [1, 2]
        assert all(event["incarnation"] == 2 for event in changes)


def test_two_worlds_that_both_train_are_one_run(reference, tmp_path):
    """With a minimum of one, each of two hosts trains alone in turn; in the end both do, and one of them in vain."""
    with staged(tmp_path, nodes=2) as stage:
        for agent in range(2):
            stage.start(agent)
        stage.wait(lambda: stage.together(0, 1), "two workers train")
        first = next(agent for agent, worker in stage.workers().items() if worker.reading.rank == 0)
        second = 1 - first
        before = is_cut_off(stage, first)
        stage.wait(lambda: stage.together(second, after=before.generation), "the other one goes on alone")
        stage.wait(lambda: any(found.incarnation == 2 for found in list_checkpoints(stage.store)), "it has committed")
        assert_it_has_stood_still(stage, first, before)

        alone = is_cut_off(stage, second)
        stage.hosts.plug(first)
        stage.wait(lambda: stage.together(first, after=alone.generation), "the old rank 0 goes on alone")
        fenced = tmp_path / f"agent-{second}.log"
        stage.wait(lambda: "is fenced off" in fenced.read_text(), "the other one may not commit any more")
        stage.hosts.plug(second)

        assert_it_ends_well(stage, reference)
        assert [event["incarnation"] for event in stage.events("started")] == [1, 2, 3]
        assert "inc-000002" in stage.events("started")[-1]["resumed_from"]  # not from what it remembered
        in_vain = [event["step"] for event in stage.events("step") if event["incarnation"] == 2]
        assert max(in_vain) > alone.step + 3


def test_training_goes_on_while_the_coordinator_is_cut_off(reference, tmp_path):
    with staged(tmp_path, nodes=3) as stage:
        for agent in range(2):
            stage.start(agent)
        stage.wait(lambda: stage.together(0, 1), "two workers train")
        before = stage.workers()
        stage.hosts.pull(stage.coordinator)
        stage.say("the coordinator is cut off")
        stage.start(2)
        time.sleep(VANISHED_SECONDS + 2)  # so that no connection outlives it
        meanwhile = stage.workers()
        for agent in range(2):
            assert meanwhile[agent].reading.generation == before[agent].reading.generation
            assert meanwhile[agent].reading.step >= before[agent].reading.step + 3
        stage.hosts.plug(stage.coordinator)
        stage.wait(lambda: stage.together(0, 1, 2), "a third worker has come")

        assert_it_ends_well(stage, reference)
        changes = [event for event in stage.events("regrouped") if event["step"] > before[0].reading.step]
        assert [(event["rung"], len(event["lost"]), len(event["joined"])) for event in changes] == [("grow", 0, 1)]
        assert [event["incarnation"] for event in stage.events("started")] == [1]


def is_cut_off(stage, agent):
    """Cut the host of an agent off; what its worker was doing."""
    stage.hosts.pull(agent)
    reading = stage.workers()[agent].reading
    stage.say(f"agent {agent} is cut off, rank {reading.rank} at step {reading.step}")
    return reading


def comes_back(stage, agent, name):
    """Connect a host again, and wait until its worker trains with the others."""
    newest = max(worker.reading.generation for worker in stage.workers().values())
    stage.hosts.plug(agent)
    stage.wait(lambda: stage.together(*stage.group.agents, after=newest), f"{name} is back")


def assert_it_has_stood_still(stage, agent, before):
    """Whoever has lost its peers and the coordinator forms no group of its own; the step it was in may have ended."""
    reading = stage.workers()[agent].reading
    assert (reading.generation, reading.rank) == (before.generation, before.rank)
    assert reading.step <= before.step + 1
