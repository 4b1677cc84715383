"""A soak from its plan to its record, with made-up processes."""

import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from clip_testkit.soak import __main__ as program
from clip_testkit.soak import record, run
from clip_testkit.soak.plan import Planned
from clip_testkit.soak.run import Outcome, Setting
from clip_testkit.soak.scene import Scene
from clip_testkit.soak.verdict import Verdict

CLEAN = Verdict((), 100, 50.0, 0.9)
BROKEN = Verdict(("gap at step 3: lost", "agent 0 did not end"), 90, 50.0, None)


class FakeAgent:
    def __init__(self):
        self.status, self.signals = None, []

    def poll(self):
        return self.status

    def send_signal(self, number):
        self.signals.append(number)


class FakeGroup:
    coordinator = None

    def __init__(self):
        self.agents, self.environment = {}, {}

    def start_agent(self, index, **environment):
        self.agents[index], self.environment[index] = FakeAgent(), environment


@pytest.fixture
def scene(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("clip_testkit.soak.scene.time", SimpleNamespace(monotonic=lambda: clock.now))
    made = Scene(FakeGroup(), None, tmp_path, pace=0.1)
    made.clock = clock
    for index in (0, 1):
        made.start_agent(index)
    return made


class TestScene:
    def test_every_agent_has_its_pace_and_its_own_directory(self, scene):
        scene.start_agent(1, "store.local.read=kill!once")
        first, second = (scene.group.environment[index] for index in (0, 1))
        assert first["CLIPCTL_FAILPOINTS"] == "train.before_update=pause:0.1"
        assert second["CLIPCTL_FAILPOINTS"] == "train.before_update=pause:0.1;store.local.read=kill!once"
        assert first["CLIPCTL_FAILPOINTS_DIR"] != second["CLIPCTL_FAILPOINTS_DIR"]
        assert Path(second["CLIPCTL_FAILPOINTS_DIR"]).is_dir()

    def test_an_agent_starts_again_once_it_has_ended(self, scene):
        old = scene.group.agents[1]
        scene.end_agent(1, signal.SIGTERM, 2.0)
        assert (old.signals, scene.running_agents()) == ([signal.SIGTERM], [0])
        scene.clock.now = 3.0
        scene.do_what_is_due()  # it still saves
        assert scene.group.agents[1] is old
        old.status = 75
        scene.clock.now = 4.0
        scene.do_what_is_due()
        assert scene.group.agents[1] is not old
        assert scene.running_agents() == [0, 1]

    def test_not_if_the_run_is_complete_by_then(self, scene):
        scene.end_agent(1, signal.SIGKILL, 2.0)
        scene.group.agents[1].status, scene.group.agents[0].status = -9, 0
        assert not scene.ended
        scene.clock.now = 3.0
        scene.do_what_is_due()
        assert (scene.complete, scene.ended) == (True, True)
        assert scene.group.agents[1].status == -9

    def test_an_agent_that_dies_of_its_own_failpoint_starts_again_without(self, scene):
        scene.start_agent(1, "elastic.spawn=kill!once")
        scene.group.agents[1].status = -9
        scene.do_what_is_due()
        assert not scene.ended
        scene.clock.now = 1.0
        scene.do_what_is_due()
        assert scene.group.agents[1].status is None
        assert "elastic" not in scene.group.environment[1]["CLIPCTL_FAILPOINTS"]

    def test_an_agent_that_dies_of_nothing_we_did_stays_dead(self, scene):
        scene.group.agents[1].status = -9
        scene.do_what_is_due()
        scene.clock.now = 10.0
        scene.do_what_is_due()
        assert scene.group.agents[1].status == -9


def test_only_what_faults_ended_may_end_otherwise_than_with_success():
    complete = SimpleNamespace(complete=True)
    assert [run._code(complete, status) for status in (0, 75, -9, 70, None)] == [0, 0, 0, 70, None]
    assert [run._code(SimpleNamespace(complete=False), status) for status in (75, -9)] == [75, -9]


class TestProgram:
    @pytest.fixture
    def soak(self, monkeypatch, tmp_path, capsys):
        executed = []

        def start(verdict, *arguments):
            def execute(setting, faults, reference, folder):
                executed.append((setting, list(faults)))
                found = verdict(faults) if callable(verdict) else verdict
                return Outcome(found, Counter(fault.kind for fault in faults), 55.0, "words")

            monkeypatch.setattr(program, "undisturbed", lambda folder, steps, nodes: None)
            monkeypatch.setattr(program, "execute", execute)
            code = program.main(["--minutes", "1", "--logs", str(tmp_path), *arguments])
            return code, capsys.readouterr().out, executed

        return start

    def test_a_clean_run(self, soak):
        code, output, executed = soak(CLEAN, "--seed", "7", "--kinds", "kill_worker")
        assert code == 0
        assert "seed 7: " in output
        assert f"{len(executed[0][1]):5} kill_worker          SIGKILL to a worker" in output
        assert "100 steps in 55 s, goodput 90.0%" in output
        assert output.splitlines()[-1].strip() == "clean"

    def test_seeds_count_up(self, soak):
        _, output, executed = soak(CLEAN, "--seed", "7", "--runs", "3")
        assert [f"seed {seed}" in output for seed in (7, 8, 9, 10)] == [True, True, True, False]
        assert executed[0][1] != executed[1][1]

    def test_a_run_that_is_not_clean(self, soak, tmp_path):
        code, output, _ = soak(BROKEN, "--seed", "7")
        assert code == 1
        assert "gap at step 3: lost" in output
        assert "agent 0 did not end" in output
        assert (tmp_path / "soak-7.log").read_text() == "words"

    def test_the_record(self, soak, tmp_path):
        file = tmp_path / "record.jsonl"
        soak(CLEAN, "--seed", "7", "--record", str(file), "--storage", "s3", "--nodes", "2")
        soak(BROKEN, "--seed", "8", "--record", str(file))
        first, second = record.read(file)
        assert (first.seed, first.verdict, first.storage, first.nodes, first.steps) == (7, "clean", "s3", 2, 100)
        assert first.injected > 0
        assert first.command.startswith("python -m clip_testkit.soak --seed 7 --minutes 1 ")
        assert (second.verdict, second.goodput) == ("gap at step 3: lost", None)

    def test_the_shortest_list_that_fails(self, soak):
        def verdict(faults):
            return BROKEN if any(fault.kind == "kill_rank_0" for fault in faults) else CLEAN

        code, output, _ = soak(
            verdict, "--seed", "7", "--mtbf", "3", "--kinds", "kill_worker", "kill_rank_0", "--shrink"
        )
        assert code == 1
        shortest = output.split("the shortest list that fails:")[1]
        assert shortest.count('"kind": "kill_rank_0"') == 1
        assert '"kind": "kill_worker"' not in shortest


def test_kinds_depend_on_the_setting():
    assert "s3_errors" in Setting("s3").kinds()
    assert "disk_full" not in Setting("folder").kinds()
    assert "disk_full" in Setting("folder", disk=True).kinds()
    assert "kill_agent" not in Setting("folder", nodes=1).kinds()


def test_a_fault_waits_for_a_victim(monkeypatch):
    tries = []
    monkeypatch.setattr(run.actions, "act", lambda scene, fault: len(tries) == 3 or tries.append(1))
    monkeypatch.setattr(run, "_turn", lambda scene: None)
    assert run._tried(SimpleNamespace(ended=False, complete=False), Planned(1.0, "kill_worker", 1))
    assert len(tries) == 3


def test_it_does_not_happen_to_a_run_that_is_over(monkeypatch):
    monkeypatch.setattr(run.actions, "act", lambda scene, fault: pytest.fail("too late"))
    assert not run._tried(SimpleNamespace(ended=False, complete=True), Planned(1.0, "kill_worker", 1))


def test_a_report_names_the_first_problems_and_counts_the_others():
    lines = program.report(Outcome(Verdict(tuple(f"problem {n}" for n in range(25)), 1, 1.0, None), Counter(), 1.0))
    assert lines.count("problem 1\n") == 1
    assert "problem 20" not in lines
    assert "and 5 more problems" in lines
