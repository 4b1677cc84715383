from dataclasses import replace
from pathlib import Path

import pytest

from clip_trainer.elastic.cpus import usable_cpus
from clip_trainer.elastic.environment import AgentPlace, worker_environment
from clip_trainer.elastic.member_settings import MemberSettings
from clip_trainer.elastic.memory import oom_kills
from clip_trainer.elastic.progress import ENV_PROGRESS_FILE, read_progress, report_progress
from clip_trainer.elastic.settings import LaunchSettings

SETTINGS = LaunchSettings(
    min_nodes=1, max_nodes=4, workers_per_node=2, endpoint="s:1", rendezvous_id="r-1", node="pod-3", last_call=2.0
)


def environment(base=None, settings=SETTINGS, cpus=8, slot=1, start=3):
    place = AgentPlace("store:29400", 42, "a1b2", Path("/scratch"), cpus)
    return worker_environment(base or {}, settings, place, slot, start)


def test_membership_reads_what_the_agent_writes():
    assert MemberSettings.from_environment(environment({"CLIPCTL_RENDEZVOUS_SECONDS": "7"})) == MemberSettings(
        endpoint=("store", 29400),
        run="r-1",
        member="pod-3/1#a1b2-3",
        node="pod-3",
        slot=1,
        min_members=1,
        max_members=8,
        last_call=2.0,
        seconds=7.0,
        local_rank=1,
    )


@pytest.mark.parametrize(("nodes", "workers", "least"), [(1, 1, 1), (1, 8, 1), (2, 1, 2), (2, 8, 9), (3, 4, 9)])
def test_least_group_has_somebody_on_the_least_number_of_nodes(nodes, workers, least):
    settings = replace(SETTINGS, min_nodes=nodes, workers_per_node=workers)
    assert environment(settings=settings)["CLIPCTL_MIN_MEMBERS"] == str(least)


def test_every_start_of_every_slot_has_names_of_its_own():
    every = [environment(slot=slot, start=start) for slot in (0, 1) for start in (1, 2)]
    for name in ("CLIPCTL_MEMBER", "CLIPCTL_BEACON"):
        assert len({each[name] for each in every}) == 4
    assert {each["CLIPCTL_PROGRESS_FILE"] for each in every} == {"/scratch/progress"}


def test_local_rank_is_the_slot():
    found = environment()
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("1", "2")


def test_fixed_ranks_of_the_pod_do_not_reach_the_worker():
    pod = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "x", "MASTER_PORT": "1", "GROUP_RANK": "0", "KEPT": "yes"}
    found = environment(pod)
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"} & set(found)
    assert found["KEPT"] == "yes"


def test_workers_know_their_agent():
    assert environment()["CLIPCTL_PARENT_PID"] == "42"


@pytest.mark.parametrize(("cpus", "workers", "threads"), [(8, 2, "4"), (1, 2, "1"), (7, 2, "3")])
def test_cores_are_shared_among_the_workers(cpus, workers, threads):
    found = environment(settings=replace(SETTINGS, workers_per_node=workers), cpus=cpus)
    assert found["OMP_NUM_THREADS"] == threads


def test_names_are_looked_up_for_seconds_at_most_and_lost_connections_fill_no_pages():
    assert environment()["RES_OPTIONS"] == "timeout:1 attempts:2"
    assert environment()["TORCH_CPP_LOG_LEVEL"] == "FATAL"
    own = {"RES_OPTIONS": "timeout:9", "TORCH_CPP_LOG_LEVEL": "INFO"}
    assert own.items() <= environment(own).items()


def test_given_thread_count_is_kept():
    assert environment({"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


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
