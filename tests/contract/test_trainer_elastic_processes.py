"""Agents, workers and coordinator as real processes, killed in every way. Few long stories: every start costs time."""

import json
import os
import signal

import pytest

from clip_testkit.agents import AgentGroup, process_state, wait_until

pytestmark = pytest.mark.timeout(300)

SECONDS = 120
ENDLESS = {"PROBE_STEPS": "10000000"}


@pytest.fixture
def group(tmp_path):
    made = []

    def make(**options):
        made.append(AgentGroup(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


def wait_for(agents, condition, what):
    wait_until(condition, SECONDS, f"{what}\n{agents.log()}")


def pids_of(agents, world):
    """Pids by rank of the newest generation, once all its `world` members have taken three steps in it."""

    def found():
        lines = agents.ledger("step")
        newest = max((line["generation"] for line in lines), default=0)
        steps = {}
        for line in lines:
            if line["generation"] == newest:
                steps.setdefault(line["rank"], []).append(line)
        if len(steps) != world or any(len(of) < 3 or of[0]["world"] != world for of in steps.values()):
            return None
        pids = {rank: of[0]["pid"] for rank, of in steps.items()}
        return pids if all(process_state(pid) not in "XZ" for pid in pids.values()) else None

    return wait_until(found, SECONDS, f"steps in a world of {world}")


def assert_every_process_took_every_step(agents):
    """Whatever happens to the others, a process that lives takes one step after the other, none twice."""
    steps = {}
    for line in agents.ledger("step"):
        steps.setdefault(line["pid"], []).append(line["step"])
    for taken in steps.values():
        assert taken == list(range(taken[0], taken[-1] + 1))


def test_workers_killed_in_turn_then_a_stop(group):
    agents = group(workers=2, environment={**ENDLESS, "PET_RDZV_ENDPOINT": ""})
    agents.start_agent()
    for victim in (1, 0):
        pids = pids_of(agents, 2)
        before = agents.ledger("step")[-1]
        os.kill(pids[victim], signal.SIGKILL)
        wait_for(agents, lambda pids=pids, v=victim: pids[v] not in pids_of(agents, 2).values(), "the replacement")
        # The survivor is still there, and it is the one that leads.
        assert pids_of(agents, 2)[0] == pids[1 - victim]
        assert agents.ledger("step")[-1]["step"] > before["step"]
        newcomer = agents.ledger("start")[-1]
        assert newcomer["step"] >= before["step"] - 1  # from its peer's memory, not from the last checkpoint
    assert_every_process_took_every_step(agents)
    assert "was killed by SIGKILL; restart 1 of 3 without progress, at once" in agents.log()

    pids = pids_of(agents, 2)
    agents.agents[0].terminate()
    assert agents.wait() == 75
    assert agents.termination()["cause"] == "preemption"
    assert agents.left_over() == {}
    stopped = agents.ledger("stopped")
    # By process: one whose own signal comes after the other has left may be rank 0 of a group by then.
    assert {line["pid"] for line in stopped} == set(pids.values())
    assert (agents.directory / "checkpoint").read_text() == str(max(line["step"] for line in stopped))


def test_agents_and_coordinator_killed_in_turn_then_a_permanent_error(group):
    agents = group(nodes=2, environment=ENDLESS)
    agents.start_coordinator()
    agents.start_agent(0)
    agents.start_agent(1)
    pids = pids_of(agents, 2)

    # A killed agent takes its worker with it; the survivor goes on alone, as the process that it is.
    doomed = next(index for index, agent in agents.agents.items() if agent.pid == parent(pids[1]))
    agents.agents[doomed].kill()
    agents.wait(doomed)
    wait_for(agents, lambda: process_state(pids[1]) in "XZ", "the orphan to die")
    assert pids_of(agents, 1) == {0: pids[0]}

    # It comes back, and the group grows: the survivor has still done every step once.
    agents.start_agent(doomed)
    grown = pids_of(agents, 2)
    assert grown[0] == pids[0]
    assert_every_process_took_every_step(agents)

    # Without the coordinator training goes on: nothing changes. A new one finds everything as it was.
    generation = agents.ledger("step")[-1]["generation"]
    agents.coordinator.kill()
    agents.coordinator.wait()
    agents.wait_step(agents.ledger("step")[-1]["step"] + 20, world=2)
    assert agents.ledger("step")[-1]["generation"] == generation
    agents.start_coordinator()
    agents.wait_step(agents.ledger("step")[-1]["step"] + 20, world=2)
    assert pids_of(agents, 2) == grown

    # The new one knows enough to replace a worker, and generation numbers only grow.
    os.kill(grown[1], signal.SIGKILL)
    wait_for(agents, lambda: grown[1] not in pids_of(agents, 2).values(), "the replacement")
    assert agents.ledger("step")[-1]["generation"] > generation
    assert_every_process_took_every_step(agents)

    # What cannot be mended ends everybody with the same code.
    (agents.directory / "fail-1").write_text("66")
    assert [agents.wait(index) for index in (0, 1)] == [66, 66]
    assert {agents.termination(index)["cause"] for index in (0, 1)} == {"user_error"}
    assert list(agents.left_over()) == [agents.coordinator.pid]
    agents.coordinator.terminate()
    assert agents.coordinator.wait(SECONDS) == 0


def test_failing_again_and_again_uses_up_the_budget(group):
    agents = group(workers=2, environment={"PET_MAX_RESTARTS": "1", "PET_RDZV_ENDPOINT": ""})
    (agents.directory / "always-fail").write_text("70")
    agents.start_agent()
    assert agents.wait() == 70
    assert agents.termination()["exhausted"] is True
    assert 2 <= len(agents.ledger("fault always")) <= 4  # the first slot that gives up ends the other one too
    assert agents.left_over() == {}


def test_rank_that_hangs_and_process_that_is_stopped_are_named_and_replaced(group):
    config = {"spec": {"name": "probe", "scale": {"grace_seconds": 10}, "health": {"hang_seconds": 5}}}
    agents = group(workers=2, environment={**ENDLESS, "PET_RDZV_ENDPOINT": "", "PET_MAX_RESTARTS": "9"})
    (agents.directory / "config.json").write_text(json.dumps(config))
    agents.start_agent()
    pids_of(agents, 2)
    (agents.directory / "fail-1").write_text("hang")
    wait_for(agents, lambda: agents.ledger("fault hang"), "the hang")
    hung = agents.ledger("fault hang")[0]
    wait_for(agents, lambda: process_state(hung["pid"]) in "XZ", "the end of the rank that hangs")
    pids = pids_of(agents, 2)
    assert hung["pid"] not in pids.values()
    log = agents.log()
    assert "rank 1 hangs: no progress for" in log
    assert f"in compute at step {hung['step']}" in log
    assert "take_fault" in log  # its stacks
    assert "rank 1 hung: no progress for" in log

    os.kill(pids[0], signal.SIGSTOP)
    wait_for(agents, lambda: process_state(pids[0]) in "XZ", "the end of the stopped process")
    assert pids[0] not in pids_of(agents, 2).values()
    assert "rank 0 hangs: no heartbeat for" in agents.log()
    assert_every_process_took_every_step(agents)
    agents.agents[0].terminate()
    assert agents.wait() == 75


def parent(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])
