from dataclasses import replace
from pathlib import Path

import pytest

from clip_trainer.elastic.cpus import usable_cpus
from clip_trainer.elastic.environment import worker_environments
from clip_trainer.elastic.memory import oom_kills
from clip_trainer.elastic.progress import ENV_PROGRESS_FILE, read_progress, report_progress
from clip_trainer.elastic.rendezvous import Round
from clip_trainer.elastic.settings import LaunchSettings

SETTINGS = LaunchSettings(min_nodes=1, max_nodes=4, workers_per_node=2, endpoint="s:1", rendezvous_id="r-1")
PLACE = Round(node_rank=1, nodes=3, master_address="10.0.0.1", master_port=4711)


def environments(base=None, settings=SETTINGS, cpus=8):
    return worker_environments(base or {}, settings, PLACE, agent_pid=42, progress_file="/tmp/progress", cpus=cpus)


def test_ranks_follow_from_the_node_rank():
    found = environments()
    assert list(found) == [2, 3]
    assert [(e["RANK"], e["LOCAL_RANK"], e["WORLD_SIZE"], e["LOCAL_WORLD_SIZE"]) for e in found.values()] == [
        ("2", "0", "6", "2"),
        ("3", "1", "6", "2"),
    ]


def test_workers_meet_at_a_store_of_their_own():
    worker = environments()[2]
    assert (worker["MASTER_ADDR"], worker["MASTER_PORT"]) == ("10.0.0.1", "4711")
    assert worker["TORCHELASTIC_USE_AGENT_STORE"] == "False"


def test_pod_level_rank_and_world_size_are_overwritten():
    worker = environments({"RANK": "0", "WORLD_SIZE": "4", "KEPT": "yes"})[3]
    assert (worker["RANK"], worker["WORLD_SIZE"], worker["KEPT"]) == ("3", "6", "yes")


def test_workers_know_their_agent():
    assert environments()[2]["CLIPCTL_PARENT_PID"] == "42"


@pytest.mark.parametrize(("cpus", "workers", "threads"), [(8, 2, "4"), (1, 2, "1"), (7, 2, "3")])
def test_cores_are_shared_among_the_workers(cpus, workers, threads):
    found = environments(settings=replace(SETTINGS, workers_per_node=workers), cpus=cpus)
    assert {e["OMP_NUM_THREADS"] for e in found.values()} == {threads}


def test_given_thread_count_is_kept():
    assert environments({"OMP_NUM_THREADS": "3"})[2]["OMP_NUM_THREADS"] == "3"


# progress


def test_progress_is_remembered_and_never_goes_back(tmp_path, monkeypatch):
    file = tmp_path / "progress"
    monkeypatch.setenv(ENV_PROGRESS_FILE, str(file))
    assert read_progress(file) == -1
    for step in (0, 40, 20):
        report_progress(step)
    assert read_progress(file) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_progress_outside_an_agent_does_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(ENV_PROGRESS_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    report_progress(3)
    assert not list(tmp_path.iterdir())


def test_progress_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv(ENV_PROGRESS_FILE, str(tmp_path / "gone" / "progress"))
    report_progress(3)
    assert read_progress(tmp_path / "gone" / "progress") == -1


def test_damaged_progress_counts_as_none(tmp_path):
    (tmp_path / "progress").write_text("forty")
    assert read_progress(tmp_path / "progress") == -1


# memory


def cgroup(tmp_path: Path, line: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text(line)
    return file


def test_oom_kills_of_version_two(tmp_path):
    events = tmp_path / "a" / "b" / "memory.events"
    events.parent.mkdir(parents=True)
    events.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(cgroup(tmp_path, "0::/a/b\n"), tmp_path) == 2


def test_oom_kills_of_version_one(tmp_path):
    control = tmp_path / "memory" / "pod" / "memory.oom_control"
    control.parent.mkdir(parents=True)
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    lines = "5:cpu,cpuacct:/x\n4:memory:/pod\n"
    assert oom_kills(cgroup(tmp_path, lines), tmp_path) == 5


def test_oom_kills_of_a_container_that_sees_its_own_group_as_root(tmp_path):
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    assert oom_kills(cgroup(tmp_path, "0::/kubepods/pod1\n"), tmp_path) == 1


def test_oom_kills_unknown_is_none_at_all(tmp_path):
    assert oom_kills(tmp_path / "missing", tmp_path) == 0


# cpus


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_quota_bounds_the_cpus(tmp_path, files, most):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert 1 <= usable_cpus(tmp_path) <= most


@pytest.mark.parametrize(
    "files",
    [{}, {"cpu.max": "max 100000\n"}, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}],
)
def test_without_quota_all_cpus_count(tmp_path, files):
    free = usable_cpus(tmp_path / "nothing")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_cpus(tmp_path) == free
