"""Agents, workers and store as real processes, killed in every way. Few long stories: every start costs seconds."""

import os
import signal
import time

import pytest

from clip_testkit.agents import AgentGroup, process_state, wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def group(tmp_path):
    made = []

    def make(**options):
        made.append(AgentGroup(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


def steps_after(group, start):
    """Steps of rank 0 from the ledger's line `start` on."""
    return [line["step"] for line in group.ledger()[start:] if line["event"] == "step" and line["rank"] == 0]


def test_workers_killed_in_turn_then_a_stop(group):
    agents = group(workers=2, environment={"PROBE_STEPS": "100000", "PET_RDZV_ENDPOINT": ""})
    agents.start_agent()
    for rank in (1, 0):
        before = agents.wait_step(len(agents.ledger()) // 2 + 6, world=2)
        seen = len(agents.ledger())
        os.kill(agents.worker_pid(rank), signal.SIGKILL)
        wait_until(
            lambda seen=seen: agents.ledger("start")[-1]["step"] and len(agents.ledger()) > seen + 30, 60, "restart"
        )
        assert steps_after(agents, seen)[-1] > before["step"]
    agents.agents[0].terminate()
    assert agents.wait() == 75
    assert agents.termination()["cause"] == "preemption"
    assert agents.left_over() == {}
    stopped = agents.ledger("stopped")
    assert {line["rank"] for line in stopped} == {0, 1}
    assert (agents.directory / "checkpoint").read_text() == str(stopped[0]["step"])


def test_agents_and_store_killed_in_turn_then_a_permanent_error(group):
    agents = group(nodes=2, environment={"PROBE_STEPS": "100000"})
    agents.start_store()
    agents.start_agent(0)
    agents.start_agent(1)
    agents.wait_step(1, world=2)

    # A killed agent takes its worker with it; the survivor goes on alone from the checkpoint.
    orphan = max((line for line in agents.ledger("start") if line["world"] == 2), key=lambda line: line["rank"])["pid"]
    doomed = next(i for i, p in agents.agents.items() if f" {p.pid} " in f" {_parent(orphan)} ")
    agents.agents[doomed].kill()
    agents.wait(doomed)
    wait_until(lambda: process_state(orphan) in "XZ", 10, "the orphan to die")
    seen = len(agents.ledger())
    wait_until(lambda: any(line["world"] == 1 for line in agents.ledger("step")[-3:]), 60, "a smaller world")

    # It comes back, and the group grows at a checkpoint: no step is done twice.
    agents.start_agent(doomed)
    wait_until(lambda: agents.ledger("step")[-1]["world"] == 2, 60, "the full world")
    grown = steps_after(agents, seen)
    assert len(grown) == len(set(grown))

    # Without the store training goes on; with a new one the group meets again and loses nothing.
    agents.store.kill()
    agents.store.wait()
    here = agents.ledger("step")[-1]["step"]
    agents.wait_step(here + 20, world=2)
    starts = len(agents.ledger("start"))
    seen = len(agents.ledger())
    agents.start_store()
    wait_until(lambda: len(agents.ledger("start")) >= starts + 2, 60, "a new round")
    wait_until(
        lambda: agents.ledger("step")[-1]["pid"] in [line["pid"] for line in agents.ledger("start")[-2:]], 60, "steps"
    )
    again = steps_after(agents, seen)
    assert len(again) == len(set(again))

    # What cannot be mended ends everybody with the same code, at once.
    (agents.directory / "fail-1").write_text("66")
    started = time.monotonic()
    assert [agents.wait(index) for index in (0, 1)] == [66, 66]
    assert time.monotonic() - started < 30
    assert {agents.termination(index)["cause"] for index in (0, 1)} == {"user_error"}
    assert list(agents.left_over()) == [agents.store.pid]
    agents.store.terminate()
    assert agents.store.wait(10) == 0


def test_failing_again_and_again_uses_up_the_budget(group):
    agents = group(workers=2, environment={"PET_MAX_RESTARTS": "1", "PET_RDZV_ENDPOINT": ""})
    (agents.directory / "always-fail").write_text("70")
    agents.start_agent()
    assert agents.wait() == 70
    assert agents.termination()["exhausted"] is True
    assert len(agents.ledger("fault always")) == 4
    assert agents.left_over() == {}


def _parent(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[1]
