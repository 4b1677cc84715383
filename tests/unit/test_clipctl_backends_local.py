import os

import pytest

from clipctl.backends import local
from clipctl.backends.base import Plan, SubmitOptions
from clipctl.backends.local import LocalBackend
from clipctl.backends.localstate import PodState, RunDirectory, Submission, SupervisorState
from clipctl.contract import names
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError
from clipctl.contract.spec import RunSpec


def plan(**changes):
    raw = {
        "name": "digits",
        "model": {"name": "ViT-tiny-8-32"},
        "data": {"train": "data/train"},
        "train": {"global_batch": 8, "steps": 10},
        "checkpoint": {"path": "runs"},
        "env": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    }
    return Plan(RunSpec.model_validate({**raw, **changes}), "run.yaml")


@pytest.fixture
def backend(tmp_path, monkeypatch):
    made = LocalBackend({**os.environ, "CLIPCTL_HOME": str(tmp_path)})
    made.started = []
    monkeypatch.setattr(made, "_start", lambda given, directory: made.started.append(given.name))
    return made


def submitted(tmp_path, given, *, name="digits", state=None, cwd=None, created=100.0):
    """A run as an earlier submission left it."""
    directory = RunDirectory(tmp_path / "runs" / name)
    directory.prepare()
    directory.write_config(given.config())
    directory.write_submission(Submission(cwd or os.getcwd(), created, created))
    if state is not None:
        directory.write_state(state)
    return directory


def ended(state):
    return SupervisorState(pid=1, state=state, attempt=2, exit_code=0, causes=("hang",), finished_at=200.0)


def test_new_run_is_started(backend, tmp_path):
    result = backend.submit(plan(), SubmitOptions())
    assert (result.action, result.backend, result.location) == ("created", "local", str(tmp_path / "runs/digits"))
    assert backend.started == ["digits"]


@pytest.mark.parametrize("state", [names.STATE_STOPPED, names.STATE_FAILED])
def test_ended_run_is_resumed(backend, tmp_path, state):
    submitted(tmp_path, plan(), state=ended(state))
    assert backend.submit(plan(), SubmitOptions()).action == "resumed"
    assert backend.started == ["digits"]


def test_complete_run_is_left_alone(backend, tmp_path):
    submitted(tmp_path, plan(), state=ended(names.STATE_SUCCEEDED))
    assert backend.submit(plan(), SubmitOptions()).action == "unchanged"
    assert backend.started == []


def test_running_run_is_left_alone(backend, tmp_path):
    directory = submitted(tmp_path, plan(), state=SupervisorState(pid=1, state=names.STATE_RUNNING))
    with directory.locked():
        assert backend.submit(plan(), SubmitOptions()).action == "unchanged"
    assert backend.started == []


def test_run_whose_supervisor_died_is_resumed(backend, tmp_path):
    submitted(tmp_path, plan(), state=SupervisorState(pid=1, state=names.STATE_RUNNING))
    assert backend.submit(plan(), SubmitOptions()).action == "resumed"


def test_changed_spec_is_refused_with_the_difference(backend, tmp_path):
    submitted(tmp_path, plan(), state=ended(names.STATE_STOPPED))
    with pytest.raises(SpecError, match=r"train\.steps: 10 -> 20"):
        backend.submit(plan(train={"global_batch": 8, "steps": 20}), SubmitOptions())
    assert backend.started == []


def test_changed_spec_replaces_on_demand(backend, tmp_path):
    submitted(tmp_path, plan(), state=ended(names.STATE_SUCCEEDED))
    changed = plan(train={"global_batch": 8, "steps": 20})
    assert backend.submit(changed, SubmitOptions(replace=True)).action == "replaced"
    assert backend.started == ["digits"]


def test_relative_paths_from_elsewhere_are_another_run(backend, tmp_path):
    submitted(tmp_path, plan(), state=ended(names.STATE_STOPPED), cwd="/somewhere/else")
    with pytest.raises(SpecError, match="/somewhere/else"):
        backend.submit(plan(), SubmitOptions())


def test_absolute_paths_mean_the_same_everywhere(backend, tmp_path):
    given = plan(data={"train": "s3://bucket/train"}, checkpoint={"path": "/runs"})
    submitted(tmp_path, given, state=ended(names.STATE_STOPPED), cwd="/somewhere/else")
    assert backend.submit(given, SubmitOptions()).action == "resumed"


def test_secrets_come_from_the_environment(tmp_path):
    given = plan(secrets={"MY_SPECIAL_TOKEN": {"secret": "s", "key": "k"}})
    with pytest.raises(MissingError, match="MY_SPECIAL_TOKEN"):
        LocalBackend({"CLIPCTL_HOME": str(tmp_path)}).submit(given, SubmitOptions())


def test_missing_trainer_says_what_to_install(backend, monkeypatch):
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(MissingError, match=r"clipctl\[trainer\]"):
        backend.submit(plan(), SubmitOptions())


def test_registry_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "denied", str(self.path))

    monkeypatch.setattr(RunDirectory, "prepare", refuse)
    with pytest.raises(PermissionDeniedError, match="CLIPCTL_HOME"):
        LocalBackend({**os.environ, "CLIPCTL_HOME": str(tmp_path)}).submit(plan(), SubmitOptions())


def test_a_supervisor_that_has_ended_before_anybody_looked_was_started(tmp_path, monkeypatch):
    """The submission stands still between its two looks, at the state and at the process."""

    class Quick:
        pid = 4711
        wait = staticmethod(lambda: 0)

        def __init__(self, command, **options):
            self.directory = RunDirectory(tmp_path / "runs" / "digits")
            self.looks = 0

        def poll(self):
            self.looks += 1
            if self.looks == 1:
                self.directory.write_state(SupervisorState(self.pid, names.STATE_FAILED, finished_at=1.0))
            return 66

    monkeypatch.setattr(local.subprocess, "Popen", Quick)
    made = LocalBackend({**os.environ, "CLIPCTL_HOME": str(tmp_path)}, sleep=lambda seconds: None)
    assert made.submit(plan(), SubmitOptions()).action == "created"
    assert made.status("digits").state == "Failed"


def test_status_tells_everything_known(backend, tmp_path):
    pods = (PodState("worker-0", "Failed", "killed", 3, None, 150.0), PodState("worker-1"))
    state = SupervisorState(1, names.STATE_FAILED, "PermanentError", "no data", 2, 66, ("hang",), 200.0, 4000, pods)
    submitted(tmp_path, plan(), state=state)
    status = backend.status("digits")
    assert (status.state, status.reason, status.message, status.exit_code) == (
        "Failed",
        "PermanentError",
        "no data",
        66,
    )
    assert (status.attempt, status.attempt_causes) == (2, ("hang",))
    assert (status.created_at, status.finished_at) == (100.0, 200.0)
    assert status.spec_digest == plan().digest
    assert status.run_root == os.path.join(os.getcwd(), "runs/digits")
    assert status.storage_env == {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    assert [(pod.name, pod.phase, pod.reason, pod.restarts) for pod in status.pods] == [
        ("worker-0", "Failed", "killed", 3),
        ("worker-1", "Pending", "", 0),
    ]


def test_run_root_on_object_storage_is_kept(backend, tmp_path):
    submitted(tmp_path, plan(checkpoint={"path": "s3://bucket/runs/"}))
    assert backend.status("digits").run_root == "s3://bucket/runs/digits"


def test_dead_supervisor_means_interrupted(backend, tmp_path):
    running = SupervisorState(pid=1, state=names.STATE_RUNNING, attempt=3, pods=(PodState("worker-0", "Running"),))
    submitted(tmp_path, plan(), state=running)
    status = backend.status("digits")
    assert (status.state, status.reason, status.attempt, status.pods) == ("Failed", "Interrupted", 3, ())
    assert "submit it again" in status.message


def test_living_supervisor_is_believed(backend, tmp_path):
    directory = submitted(tmp_path, plan(), state=SupervisorState(pid=1, state=names.STATE_RUNNING))
    with directory.locked():
        assert backend.status("digits").state == "Running"


def test_run_whose_supervisor_has_said_nothing_yet_is_pending(backend, tmp_path):
    directory = submitted(tmp_path, plan())
    with directory.locked():
        assert backend.status("digits").state == "Pending"


def test_list_is_newest_first(backend, tmp_path):
    assert backend.list() == []
    submitted(tmp_path, plan(), name="old", created=1.0, state=ended(names.STATE_SUCCEEDED))
    submitted(tmp_path, plan(), name="new", created=2.0, state=ended(names.STATE_STOPPED))
    (tmp_path / "runs" / "rubbish").mkdir()
    assert [(run.name, run.state, run.attempt) for run in backend.list()] == [
        ("new", "Stopped", 2),
        ("old", "Succeeded", 2),
    ]


@pytest.mark.parametrize("operation", ["status", "stop", "delete"])
@pytest.mark.parametrize("name", ["nothing", "../digits"])
def test_unknown_runs(backend, tmp_path, operation, name):
    submitted(tmp_path, plan())
    with pytest.raises(MissingError, match="there is no local run"):
        getattr(backend, operation)(name)


def test_logs_of_an_unknown_run_fail_at_once(backend):
    with pytest.raises(MissingError):
        backend.logs("nothing", False, None)


def test_delete_forgets_the_run_and_keeps_its_storage(backend, tmp_path):
    directory = submitted(tmp_path, plan(checkpoint={"path": str(tmp_path / "stored")}), state=ended("Stopped"))
    (tmp_path / "stored").mkdir()
    backend.delete("digits")
    assert not directory.path.exists()
    assert (tmp_path / "stored").exists()
    with pytest.raises(MissingError):
        backend.status("digits")


def test_stop_of_an_ended_run_does_nothing(backend, tmp_path):
    submitted(tmp_path, plan(), state=ended(names.STATE_FAILED))
    backend.stop("digits")
    assert backend.status("digits").state == "Failed"
