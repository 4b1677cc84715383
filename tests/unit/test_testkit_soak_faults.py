"""What each kind of fault does to a scene, on made-up processes."""

import random
import signal
from collections import Counter

import pytest

from clip_testkit.httpfaults import Answer, Request
from clip_testkit.soak import faults
from clip_testkit.soak.plan import KINDS, Planned
from clip_testkit.soak.scene import Scene, Victim
from clip_trainer.elastic.beacon import Reading
from clipctl.contract import layout
from clipctl.contract.failpoint_rules import Rules
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore


def victim(pid, agent, rank):
    return Victim(pid, agent, Reading("compute", 0.0, 0.0, False, 0.0, step=5, generation=1, rank=rank))


class FakeScene:
    """Three workers on three agents; says what was done to them."""

    choose = Scene.choose

    def __init__(self, store=None):
        self.done, self.planned, self.damaged = [], [], set()
        self.victims = [victim(11, 0, 2), victim(12, 1, 0), victim(13, 2, 1)]
        self.agents = [0, 1, 2]
        self.workload = type("Workload", (), {"store": store})
        self.server = self.disk = None
        self.group = type("Group", (), {"coordinator": type("Coordinator", (), {"poll": lambda self: None})()})

    def workers(self):
        return self.victims

    def running_agents(self):
        return self.agents

    def kill(self, pid, number=signal.SIGKILL):
        self.done.append((pid, number))

    def end_agent(self, index, number, seconds, rules=""):
        self.done.append((index, number, rules))

    def renew_coordinator(self, seconds):
        self.done.append("coordinator")

    def later(self, seconds, action):
        assert 0 < seconds < 10
        self.planned.append(action)


def act(scene, kind, chance=1):
    return faults.act(scene, Planned(1.0, kind, chance))


def test_every_kind_can_be_done():
    assert set(faults._ACTIONS) == set(KINDS)


def test_a_worker_is_killed():
    scene = FakeScene()
    assert act(scene, "kill_worker")
    ((pid, number),) = scene.done
    assert (pid in {11, 12, 13}, number) == (True, signal.SIGKILL)


def test_the_same_chance_hits_the_same_one():
    hits = []
    for chance in (1, 1, *range(30)):
        scene = FakeScene()
        act(scene, "kill_worker", chance)
        hits.append(scene.done[0][0])
    assert hits[0] == hits[1]
    assert set(hits) == {11, 12, 13}


def test_rank_0_is_killed():
    scene = FakeScene()
    assert act(scene, "kill_rank_0")
    assert scene.done == [(12, signal.SIGKILL)]
    scene.victims = scene.victims[:1]
    assert not act(scene, "kill_rank_0")


def test_all_workers_are_killed():
    scene = FakeScene()
    assert act(scene, "kill_all_workers")
    assert {pid for pid, _ in scene.done} == {11, 12, 13}


@pytest.mark.parametrize("kind", ["kill_worker", "kill_rank_0", "kill_all_workers", "stop_worker", "pause_worker"])
def test_without_a_worker_nothing_happens(kind):
    scene = FakeScene()
    scene.victims = []
    assert not act(scene, kind)
    assert scene.done == scene.planned == []


def test_a_stopped_worker_is_left_to_the_watchdog():
    scene = FakeScene()
    assert act(scene, "stop_worker")
    assert scene.done[0][1] == signal.SIGSTOP
    assert scene.planned == []


def test_a_paused_worker_goes_on():
    scene = FakeScene()
    assert act(scene, "pause_worker")
    (pid, _), (go_on,) = scene.done[0], scene.planned
    go_on()
    assert scene.done == [(pid, signal.SIGSTOP), (pid, signal.SIGCONT)]


@pytest.mark.parametrize(("kind", "number"), [("kill_agent", signal.SIGKILL), ("term_agent", signal.SIGTERM)])
def test_an_agent_is_ended(kind, number):
    scene = FakeScene()
    assert act(scene, kind)
    ((index, sent, rules),) = scene.done
    assert (index in {0, 1, 2}, sent, rules) == (True, number, "")
    scene.agents = []
    assert not act(scene, kind)


def test_an_agent_starts_again_with_failpoints_that_exist(tmp_path):
    names = set()
    for chance in range(100):
        scene = FakeScene()
        assert act(scene, "failpoint", chance)
        ((_, sent, rules),) = scene.done
        assert sent == signal.SIGKILL
        Rules.parse(f"{rules};train.before_update=pause:0.1", str(tmp_path))  # raises if one does not exist
        names |= {rule.partition("=")[0] for rule in rules.split(";")}
        assert all("=kill@" in rule and rule.endswith("!once") for rule in rules.split(";"))
    assert len(names) > 20
    assert "train.before_update" not in names  # sets the pace
    assert not any(name.startswith(("operator.", "cli.")) for name in names)


def test_the_coordinator_is_renewed():
    scene = FakeScene()
    assert act(scene, "kill_coordinator")
    assert scene.done == ["coordinator"]
    scene.group.coordinator = None
    assert not act(scene, "kill_coordinator")


class FakeDisk:
    state = "free"

    def fill(self):
        self.state = "full"

    def relieve(self):
        self.state = "free"


def test_the_disk_is_full_for_a_while():
    scene = FakeScene()
    scene.disk = FakeDisk()
    assert act(scene, "disk_full")
    assert scene.disk.state == "full"
    scene.planned[0]()
    assert scene.disk.state == "free"


class FakeServer:
    def __init__(self):
        self.rules = []

    def add(self, fault, *, methods, probability):
        assert {"GET", "PUT", "DELETE"} <= set(methods)
        self.rules.append((fault, probability))

    def heal(self):
        self.rules.clear()


@pytest.mark.parametrize("kind", ["s3_errors", "s3_resets", "s3_slow"])
def test_the_store_fails_for_a_while(kind, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    scene = FakeScene()
    scene.server = FakeServer()
    assert act(scene, kind)
    ((fault, probability),) = scene.server.rules
    assert probability > 0
    good = Answer(200, {}, b"content")
    answer = fault(Request("GET", "/bucket/key", {}), good, random.Random(0))
    assert {
        "s3_errors": answer.status == 503,
        "s3_resets": answer.stop_after == 0,
        "s3_slow": answer == good and len(slept) == 1,
    }[kind]
    scene.planned[0]()
    assert scene.server.rules == []


class TestCorruption:
    @pytest.fixture
    def scene(self, tmp_path, monkeypatch):
        store = LocalStore(tmp_path)
        broken = set()
        monkeypatch.setattr(faults, "_intact", lambda store, checkpoint: checkpoint not in broken)
        scene = FakeScene(store)
        scene.broken = broken
        for step in (5, 10, 15):
            store.write(layout.commit_key(CheckpointId(step, 1)), b"{}")
            store.write(f"{layout.checkpoint_prefix(CheckpointId(step, 1))}weights", bytes(100))
        return scene

    def content(self, scene, step):
        return scene.workload.store.read(f"{layout.checkpoint_prefix(CheckpointId(step, 1))}weights")

    def test_a_byte_of_the_newest_is_flipped_and_everybody_must_read_it(self, scene):
        assert act(scene, "corrupt_checkpoint")
        assert Counter(self.content(scene, 15)) == {0: 99, 0x10: 1}
        assert self.content(scene, 10) == self.content(scene, 5) == bytes(100)
        assert scene.damaged == {"step-00000015.inc-000001"}
        assert len(scene.done) == 3

    def test_not_if_another_one_is_damaged_already(self, scene):
        scene.broken.add(CheckpointId(10, 1))
        assert not act(scene, "corrupt_checkpoint")
        assert self.content(scene, 15) == bytes(100)
        assert scene.damaged == set()

    def test_not_if_there_are_too_few(self, scene):
        scene.workload.store.delete(layout.commit_key(CheckpointId(5, 1)))
        assert not act(scene, "corrupt_checkpoint")


def test_at_the_end_every_fault_that_lasts_is_undone(monkeypatch):
    scene = FakeScene()
    scene.disk, scene.server = FakeDisk(), FakeServer()
    act(scene, "disk_full")
    act(scene, "s3_errors")
    scene.group.left_over = lambda: {11: "worker", 12: "worker"}
    monkeypatch.setattr(faults, "process_state", lambda pid: "T" if pid == 12 else "S")
    faults.release(scene)
    assert (scene.disk.state, scene.server.rules, scene.done) == ("free", [], [(12, signal.SIGCONT)])
