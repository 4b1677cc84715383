import fcntl
import json
import subprocess
import sys

from clipctl.backends.locallogs import Tail, log_lines
from clipctl.backends.localstate import PodState, RunDirectory, Submission, SupervisorState, registry
from clipctl.contract import names

STATE = SupervisorState(
    pid=7,
    state=names.STATE_FAILED,
    reason="RetryBudgetExhausted",
    message="worker-0 was killed",
    attempt=3,
    exit_code=75,
    causes=("hang", "infrastructure"),
    finished_at=12.5,
    port=4000,
    pods=(PodState("worker-0", "Failed", "why", 2, None, 3.0), PodState("worker-1")),
)


def directory(tmp_path):
    made = RunDirectory(tmp_path / "runs" / "digits")
    made.prepare()
    return made


def test_registry_follows_the_environment(tmp_path, monkeypatch):
    assert registry({"CLIPCTL_HOME": str(tmp_path), "XDG_STATE_HOME": "/x"}) == tmp_path / "runs"
    assert registry({"XDG_STATE_HOME": "/x"}).as_posix() == "/x/clipctl/runs"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry({}) == tmp_path / ".local/state/clipctl/runs"


def test_state_survives_the_disk(tmp_path):
    run = directory(tmp_path)
    run.write_state(STATE)
    assert run.read_state() == STATE


def test_fields_of_a_newer_version_are_ignored(tmp_path):
    run = directory(tmp_path)
    raw = json.loads(STATE.to_json())
    raw["future"] = 1
    raw["pods"][0]["future"] = 1
    (run.path / "supervisor.json").write_text(json.dumps(raw))
    assert run.read_state() == STATE


def test_damaged_or_absent_files_read_as_nothing(tmp_path):
    run = directory(tmp_path)
    assert (run.read_state(), run.read_config(), run.read_submission()) == (None, None, None)
    for name in ("supervisor.json", "config.json", "submission.json"):
        for content in ("", "{", "[]", "3", '{"x": 1}'):
            (run.path / name).write_text(content)
            assert run.read_submission() is None
            assert run.read_config() in (None, {"x": 1})
            assert run.read_state() in (None, SupervisorState())


def test_forgotten_state_is_gone(tmp_path):
    run = directory(tmp_path)
    run.write_state(STATE)
    run.forget_state()
    run.forget_state()
    assert run.read_state() is None


def test_submission_survives_the_disk(tmp_path):
    run = directory(tmp_path)
    run.write_submission(Submission("/srv/me", 1.0, 2.0, 4))
    assert run.read_submission() == Submission("/srv/me", 1.0, 2.0, 4)


def test_no_staged_file_remains(tmp_path):
    run = directory(tmp_path)
    run.write_state(STATE)
    run.write_config({"spec": {}})
    assert sorted(path.name for path in run.path.iterdir() if path.is_file()) == ["config.json", "supervisor.json"]


def test_others_cannot_read_a_run(tmp_path):
    assert directory(tmp_path).path.stat().st_mode & 0o077 == 0


def test_lock_tells_whether_a_supervisor_lives(tmp_path):
    run = directory(tmp_path)
    assert not run.supervised()
    with run.locked() as mine:
        assert mine
        assert run.supervised()
    assert not run.supervised()


def test_two_who_look_at_once_do_not_take_each_other_for_a_supervisor(tmp_path, monkeypatch):
    run = directory(tmp_path)
    run.write_state(STATE)
    with run.locked():
        pass  # a supervisor was here
    flock, seen = fcntl.flock, []

    def flock_while_somebody_looks(descriptor, operation):
        flock(descriptor, operation)
        monkeypatch.setattr(fcntl, "flock", flock)
        seen.append(run.supervised())

    monkeypatch.setattr(fcntl, "flock", flock_while_somebody_looks)
    seen.append(run.supervised())
    assert seen == [False, False]


def test_lock_of_a_killed_process_is_free(tmp_path):
    run = directory(tmp_path)
    code = (
        "import sys, pathlib, time\nfrom clipctl.backends.localstate import RunDirectory\n"
        f"with RunDirectory(pathlib.Path({str(run.path)!r})).locked() as mine:\n"
        "    print(mine, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        assert run.supervised()
        holder.kill()
        holder.wait()
    assert not run.supervised()


# logs


def logs(run, rank=None, follow=False, ended=lambda: True, sleep=lambda _: None):
    return list(log_lines(run, rank, follow, ended, sleep))


def test_one_pod_needs_no_prefix(tmp_path):
    run = directory(tmp_path)
    run.pod_log(0).write_text("[agent] hello\n[rank 0] step 1\r\nlast without end")
    assert logs(run) == ["[agent] hello", "[rank 0] step 1", "last without end"]


def test_several_pods_in_numerical_order(tmp_path):
    run = directory(tmp_path)
    for index in (0, 2, 10):
        run.pod_log(index).write_text(f"line of {index}\n")
    assert logs(run) == ["[worker-0] line of 0", "[worker-2] line of 2", "[worker-10] line of 10"]


def test_lines_of_one_rank_wherever_it_ran(tmp_path):
    run = directory(tmp_path)
    run.pod_log(0).write_text("[rank 1] a\n[rank 10] b\n[agent] c\n")
    run.pod_log(1).write_text("[rank 1] d\n")
    assert logs(run, rank=1) == ["[rank 1] a", "[rank 1] d"]


def test_following_sees_new_lines_and_pods_until_the_end(tmp_path):
    run = directory(tmp_path)
    run.pod_log(0).write_text("one\ntw")
    moments = iter([False, False, True])

    def sleep(_):
        with run.pod_log(0).open("a") as file:
            file.write("o\nthree")
        run.pod_log(1).write_text("other\n")

    found = logs(run, follow=True, ended=lambda: next(moments), sleep=sleep)
    assert found[0] == "one"
    assert found[1:3] == ["[worker-0] two", "[worker-1] other"]
    assert found[-1] == "[worker-0] three"


def test_run_without_logs(tmp_path):
    assert logs(directory(tmp_path)) == []
    assert list(Tail(tmp_path / "nothing").lines(final=True)) == []


def test_bytes_that_are_no_text_are_shown_somehow(tmp_path):
    run = directory(tmp_path)
    run.pod_log(0).write_bytes(b"\xff\xfe broken\n")
    assert logs(run) == ["�� broken"]
