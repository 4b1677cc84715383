"""Agent and coordinator pass their failpoints."""

import pytest

from clip_testkit.fakeworkers import FakeNode
from clip_trainer.elastic.coordinator import Coordinator
from clip_trainer.elastic.run_members import Timing
from clipctl.contract.failpoints import armed


def undisturbed(worker):
    worker.enter()
    worker.node.after(5.0, lambda: worker.end(0))


def killed_once(worker):
    worker.enter()
    worker.node.after(5.0, lambda: worker.end(-9 if worker.start == 1 else 0))


def beyond_repair(worker):
    worker.enter()
    worker.node.after(5.0, lambda: worker.end(66))


def hanging_once(worker):
    worker.enter()
    if worker.start == 1:
        worker.silent_since = worker.node.now
    else:
        worker.node.after(5.0, lambda: worker.end(0))


def told_to_stop(worker):
    worker.enter()
    worker.node.after(5.0, worker.node.agent.request_stop)


@pytest.mark.parametrize(
    ("name", "script", "code"),
    [
        ("elastic.spawn", undisturbed, 0),
        ("elastic.worker_failed", killed_once, 0),
        ("elastic.closing", beyond_repair, 66),
        ("elastic.hang_found", hanging_once, 0),
        ("elastic.stopping", told_to_stop, 75),
    ],
)
def test_an_agent_passes_them(name, script, code):
    node = FakeNode(slots=1)
    node.script = script
    with armed(f"{name}=note") as fired:
        assert node.run().code == code
    assert set(fired) == {name}


@pytest.mark.parametrize(("name", "time"), [("elastic.spawn", 2), ("elastic.worker_failed", 1)])
def test_an_agent_that_breaks_there_leaves_no_worker(name, time):
    node = FakeNode(slots=2)
    node.script = killed_once
    with armed(f"{name}=raise@{time}"), pytest.raises(RuntimeError, match=name):
        node.run()
    assert node.running() == []


def hello(coordinator, connection, name):
    place = {"run": "run", "member": name, "node": name, "slot": 0, "generation": 0, "members": []}
    bounds = {"min_members": 2, "max_members": 2, "last_call": 0.0}
    coordinator.connected(connection, "10.0.0.1")
    coordinator.received(connection, {"type": "hello", **place, **bounds}, 1000.0)
    coordinator.received(connection, {"type": "wait", "generation": 0}, 1000.0)


def test_a_coordinator_passes_them():
    coordinator = Coordinator(Timing(settle=0.0), 1000.0)
    with armed("elastic.lead=note;elastic.form=note;elastic.member_gone=note") as fired:
        hello(coordinator, 1, "a")
        assert fired == []
        hello(coordinator, 2, "b")
        assert fired == ["elastic.lead"]
        leads = [(to, message) for to, message in coordinator.take() if message["type"] == "lead"]
        ((leader, lead),) = leads
        answer = {"type": "open", "generation": lead["generation"], "attempt": lead["attempt"], "port": 1}
        coordinator.received(leader, answer, 1000.0)
        assert fired == ["elastic.lead", "elastic.form"]
        coordinator.disconnected(2, 1001.0)
    assert fired == ["elastic.lead", "elastic.form", "elastic.member_gone"]
