import io
import json
import threading

import pytest

from clip_testkit.runyaml import MINIMAL
from clipctl import runstorage, watch
from clipctl.backends.base import PodStatus, Progress, RunStatus, RunSummary, SubmitResult
from clipctl.cli import main
from clipctl.contract.errors import ExitCode, MissingError, UnavailableError
from clipctl.contract.store_local import LocalStore
from clipctl.runstorage import StorageView, look, storage_environment, within
from clipctl.statusview import as_json, as_text, progress_line, results_rows

PROGRESS = Progress(
    step=120, total_steps=500, samples_consumed=7680, loss=1.23456, samples_per_second=812.4, eta_seconds=63.0,
    world_size=2, incarnation=1, attempt=1, updated_at=1000.0, state="Running", goodput=0.987,
)  # fmt: skip
RESULTS = {
    "zero_shot": {"top1": 0.93},
    "retrieval": None,
    "export": "/x/export",
    "loss_curve": "/x/loss.png",
    "final_loss": 0.5,
}


def status(state="Running", root="", **changes):
    return RunStatus("demo", "local", state, "/runs/demo", str(root), **changes)


class ScriptedBackend:
    """A local backend that goes through given states."""

    name = "local"

    def __init__(self, states, interrupt_at=None):
        self.states = list(states)
        self.stopped = self.deleted = 0
        self.asked = 0
        self.interrupt_at = interrupt_at
        self.options = None

    def submit(self, plan, options):
        self.options = options
        return SubmitResult(plan.name, "created", "local", "/runs/demo")

    def status(self, name):
        if name != "demo":
            raise MissingError(f"there is no run {name}.")
        self.asked += 1
        if self.asked == self.interrupt_at:
            raise KeyboardInterrupt
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def list(self):
        return [RunSummary("demo", "local", self.states[0].state, 1, 0.0, "/runs/demo")]

    def logs(self, name, follow, rank):
        yield f"[rank {rank or 0}] password=hunter2 follow={follow}"

    def stop(self, name):
        self.stopped += 1

    def delete(self, name):
        self.deleted += 1


@pytest.fixture
def use(monkeypatch):
    def choose(backend):
        monkeypatch.setattr("clipctl.backends.choose.local_backend", lambda: backend)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        # The storage is at hand; only a thread that starts late could make a look into it too slow.
        monkeypatch.setattr("clipctl.watch._READ_SECONDS", 60.0)
        monkeypatch.setattr("clipctl.runstorage.READ_SECONDS", 60.0)
        return backend

    return choose


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.fixture
def root(tmp_path):
    store = LocalStore(tmp_path / "root")
    store.write("status.json", json.dumps({"step": 120, "total_steps": 500, "loss": 1.5}).encode())
    store.write("results.json", json.dumps(RESULTS).encode())
    return tmp_path / "root"


def test_submit_local_waits_and_ends_with_the_results(use, run_file, root, capsys):
    backend = use(ScriptedBackend([status("Pending", root), status("Running", root), status("Succeeded", root)]))
    assert main(["submit", run_file, "--local", "--replace"]) == 0
    captured = capsys.readouterr()
    assert backend.options.replace is True
    assert "Zero-shot:  top1 0.93" in captured.out
    assert "Exported:   /x/export" in captured.out
    assert "Loss curve: /x/loss.png" in captured.out
    assert "demo: Running" in captured.err
    assert "step 120/500 (24%)  loss 1.5" in captured.err


def test_submit_detached_returns_at_once(use, run_file, capsys):
    backend = use(ScriptedBackend([status()]))
    assert main(["submit", run_file, "--local", "--detach"]) == 0
    assert backend.asked == 0
    assert capsys.readouterr().out.startswith("run demo created (/runs/demo)")


def test_submit_as_json_is_one_object(use, run_file, root, capsys):
    use(ScriptedBackend([status("Succeeded", root)]))
    assert main(["submit", run_file, "--local", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["action"], found["status"]["state"]) == ("created", "Succeeded")
    assert found["status"]["results"] == RESULTS


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (status("Failed", exit_code=65), ExitCode.CORRUPT),
        (status("Failed", exit_code=-9), ExitCode.INTERNAL),
        (status("Failed"), ExitCode.INTERNAL),
        (status("Stopped"), ExitCode.TRY_AGAIN),
        (status("Succeeded"), ExitCode.OK),
    ],
)
def test_the_exit_code_of_waiting(use, run_file, last, code, capsys):
    use(ScriptedBackend([last]))
    assert main(["submit", run_file, "--local"]) == code
    assert ("See: clipctl logs demo" in capsys.readouterr().err) == (code != 0)


def test_ctrl_c_stops_a_local_run_after_a_checkpoint(use, run_file, capsys):
    backend = use(ScriptedBackend([status()], interrupt_at=2))
    assert main(["submit", run_file, "--local"]) == 130
    assert backend.stopped == 1
    assert f"clipctl submit {run_file} --local" in capsys.readouterr().err


def test_ctrl_c_leaves_a_cluster_run_alone(use, run_file, monkeypatch, capsys):
    backend = ScriptedBackend([status()], interrupt_at=1)
    backend.submit = lambda plan, options: SubmitResult("demo", "created", "kubernetes", "ns/demo-1")
    monkeypatch.setattr("clipctl.backends.choose.kubernetes_backend", lambda namespace, context: backend)
    assert main(["submit", run_file, "--wait"]) == 130
    assert backend.stopped == 0
    assert "the run goes on" in capsys.readouterr().err


def test_status_list_logs_stop_delete(use, root, capsys):
    backend = use(ScriptedBackend([status("Running", root)]))
    assert main(["status", "demo"]) == 0
    assert "Step:         120/500 (24%)" in capsys.readouterr().out
    assert main(["list", "--local", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["backend"] == "local"
    assert main(["logs", "demo", "--rank", "3", "-f"]) == 0
    assert capsys.readouterr().out == "[rank 3] password=*** follow=True\n"
    assert main(["logs", "demo", "--json"]) == 0
    assert "hunter2" not in capsys.readouterr().out
    assert main(["stop", "demo", "--json"]) == 0
    assert backend.stopped == 1
    assert main(["delete", "demo", "--yes", "--json"]) == 0
    assert backend.deleted == 1


def test_delete_asks_unless_the_run_has_ended(use, monkeypatch, capsys):
    backend = use(ScriptedBackend([status("Running")]))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["delete", "demo"]) == ExitCode.USAGE
    assert "--yes" in capsys.readouterr().err
    assert backend.deleted == 0
    backend.states = [status("Failed")]
    assert main(["delete", "demo"]) == 0
    assert backend.deleted == 1


def test_watching_status_ends_with_the_run(use, root, capsys):
    backend = use(ScriptedBackend([status("Running", root), status("Running", root), status("Succeeded", root)]))
    assert main(["status", "demo", "--watch", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["Running", "Running", "Succeeded"]
    assert backend.asked == 3


def test_looking_into_storage_never_fails(tmp_path, monkeypatch):
    assert "does not say" in look("", {}).problem
    assert "ftp" in look("ftp://x", {}).problem
    empty = look(str(tmp_path / "nothing"), {})
    assert (empty.problem, empty.progress, empty.checkpoints) == ("", Progress(), 0)
    (tmp_path / "status.json").write_text("{")
    (tmp_path / "results.json").write_text("[]")
    damaged = look(str(tmp_path), {})
    assert (damaged.problem, damaged.progress, damaged.results) == ("", Progress(), None)


def test_storage_that_hangs_is_given_up():
    release = threading.Event()
    try:
        with pytest.raises(UnavailableError, match="nobody answered within 0 s"):
            within(0.01, release.wait, "nobody answered")
    finally:
        release.set()


def test_errors_and_results_pass_through_the_time_limit():
    def fail():
        raise MissingError("gone.")

    with pytest.raises(MissingError):
        within(60, fail, "x")
    assert within(60, lambda: 3, "x") == 3


def test_the_users_own_environment_wins(monkeypatch):
    import os

    monkeypatch.setenv("AWS_REGION", "mine")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with storage_environment({"AWS_REGION": "theirs", "AWS_ENDPOINT_URL": "http://s3"}):
        assert (os.environ["AWS_REGION"], os.environ["AWS_ENDPOINT_URL"]) == ("mine", "http://s3")
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_status_as_text_shows_everything_known():
    checkpoint = runstorage.CheckpointSummary("step-00000100.inc-000001", 100, 1, 1, 6400, 2, 3 << 20, 940.0)
    known = status(
        reason="Unschedulable", message="0/1 nodes", attempt=3, attempt_causes=("preemption", "hang"),
        resume_from="step-00000050.inc-000001", rejected=("step-00000060.inc-000001: damaged",),
        pods=(PodStatus("w-0", "Running", "", 2, "n1", 65.0),),
    )  # fmt: skip
    text = as_text(known, StorageView(PROGRESS, 4, checkpoint), now=1000.0)
    for line in (
        "State:        Running (Unschedulable)",
        "Message:      0/1 nodes",
        "Attempt:      3 (earlier ones ended by: preemption, hang)",
        "Step:         120/500 (24%)",
        "Loss:         1.235",
        "Rate:         812.4 samples/s",
        "ETA:          1m3s",
        "World size:   2",
        "Goodput:      98.7%",
        "Checkpoint:   step-00000100.inc-000001 (1m ago, 6400 samples, 3.0 MiB; 4 committed)",
        "Resumed from: step-00000050.inc-000001 (verified)",
        "Rejected:     step-00000060.inc-000001: damaged",
        "w-0      Running   -        2          n1     1m5s",
    ):
        assert line in text.splitlines(), line
    json.dumps(as_json(known, StorageView(PROGRESS, 4, checkpoint)))


def test_status_as_text_says_what_it_does_not_know():
    text = as_text(status("Pending"), StorageView(problem="S3 refuses."), now=0.0)
    assert "Checkpoint:   unknown: S3 refuses." in text
    assert "Step:         -" in text
    assert "none yet" in as_text(status("Pending"), StorageView(), now=0.0)
    stale = as_text(status(), StorageView(PROGRESS), now=2000.0)
    assert "Reported:     16m40s ago" in stale
    assert "State:        Failed (exit code 65)" in as_text(status("Failed", exit_code=65), StorageView(), now=0.0)
    stopped = as_text(status("Stopped", reason="StoppedByUser", exit_code=75), StorageView(PROGRESS), now=1000.0)
    assert "State:        Stopped (StoppedByUser, exit code 75)" in stopped
    assert "ETA" not in stopped


def test_progress_in_one_line():
    assert progress_line(PROGRESS) == "step 120/500 (24%)  loss 1.235  812.4 samples/s  ETA 1m3s  2 ranks"
    assert progress_line(Progress()) == "step -"
    assert progress_line(Progress(step=3)) == "step 3"
    assert results_rows(None) == []
    assert [name for name, _ in results_rows(RESULTS)] == ["Zero-shot", "Final loss", "Exported", "Loss curve"]


def test_plain_progress_is_throttled(capsys):
    times = iter([0.0, 0.0, 1.0, 6.0, 6.0, 7.0, 7.0])
    display = watch.PlainDisplay(every_seconds=5.0, clock=lambda: next(times))
    for step in (1, 2, 3):
        display.update(status(), Progress(step=step))
    display.update(status("Succeeded"), Progress(step=4))
    display.close()
    assert capsys.readouterr().err.splitlines() == [
        "demo: Running",
        "demo: step 1",
        "demo: step 3",
        "demo: Succeeded",
        "demo: step 4",
    ]


def test_the_bar_shows_state_and_progress(capsys):
    display = watch.BarDisplay()
    display.update(status(), Progress())
    display.update(status("Restarting", reason="WorkerLost"), PROGRESS)
    display.close()
    err = capsys.readouterr().err
    assert "demo: Restarting (WorkerLost)" in err
    assert "step 120/500" in err


def test_following_survives_storage_it_cannot_read(monkeypatch):
    backend = ScriptedBackend([status("Running", "ftp://x"), status("Succeeded", "ftp://x")])
    seen = []

    class Display:
        def update(self, known, progress):
            seen.append((known.state, progress))

        def close(self):
            seen.append("closed")

    assert watch.follow(backend, "demo", Display(), sleep=lambda s: None).state == "Succeeded"
    assert seen == [("Running", Progress()), ("Succeeded", Progress()), "closed"]
