import json

import pytest
import yaml

from clip_testkit.fakeapi import FakeApiError, FakeApiServer
from clip_testkit.runyaml import spec_with
from clipctl.apply import connect
from clipctl.backends.base import Plan, SubmitOptions
from clipctl.backends.clusterpaths import check_locations
from clipctl.backends.diff import refuse_changed, spec_differences
from clipctl.backends.kubernetes import KubernetesBackend
from clipctl.contract import names
from clipctl.contract.errors import ClusterConfigError, MissingError, SpecError, UnavailableError

JOBS = ("kubeflow.org/v1", "pytorchjobs")
PODS = ("v1", "pods")
DEPLOYMENTS = ("apps/v1", "deployments")
NO_REPLACE, REPLACE = SubmitOptions(), SubmitOptions(replace=True)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with FakeApiServer() as server:
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(server.kubeconfig("team")))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        yield server


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 0.0
        self.on_sleep = lambda: None

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backend(server, clock):
    return KubernetesBackend(connect(), sleep=clock.sleep, clock=clock)


def plan(*overrides):
    return Plan(spec_with(*overrides), "run.yaml")


def jobs(server):
    return {item["metadata"]["name"]: item for item in server.objects.list(JOBS, "team")}


def add_condition(server, name, kind):
    change = {"status": {"conditions": [{"type": kind, "status": "True", "reason": f"Job{kind}", "message": kind}]}}
    server.objects.merge(JOBS, "team", name, change)


def add_pod(server, name, attempt=1, phase="Running"):
    labels = {names.LABEL_RUN: "demo", names.LABEL_COMPONENT: "worker", names.LABEL_ATTEMPT: str(attempt)}
    server.objects.create(PODS, "team", {"metadata": {"name": name, "labels": labels}, "status": {"phase": phase}})


def writes(server):
    return [(c.verb, c.plural, c.name) for c in server.calls if c.verb not in ("get", "list")]


def test_submit_creates_everything_and_the_job_last(backend, server):
    result = backend.submit(plan(), NO_REPLACE)
    assert (result.action, result.location) == ("created", "team/demo-1")
    applied = [plural for verb, plural, _ in writes(server) if verb == "apply"]
    assert applied == ["serviceaccounts", "configmaps", "services", "deployments", "pytorchjobs"]


def test_the_same_file_again_writes_nothing(backend, server):
    backend.submit(plan(), NO_REPLACE)
    before = len(writes(server))
    for condition in ("Created", "Running", "Succeeded"):
        add_condition(server, "demo-1", condition)
        assert backend.submit(plan(), NO_REPLACE).action == "unchanged"
    assert len(writes(server)) == before


def test_a_submit_that_broke_off_is_completed_by_the_next_one(backend, server):
    for broken in ("configmaps", "services", "deployments", "pytorchjobs"):
        server.fail_next(FakeApiError(503, "Unavailable", "restarting"), verb="apply", plural=broken)
        with pytest.raises(UnavailableError):
            backend.submit(plan(), NO_REPLACE)
    assert jobs(server) == {}
    assert backend.submit(plan(), NO_REPLACE).action in ("created", "resumed")
    assert list(jobs(server)) == ["demo-1"]


def test_a_changed_file_is_refused_with_its_differences(backend, server):
    backend.submit(plan(), NO_REPLACE)
    before = server.objects.list(JOBS, "team")
    with pytest.raises(SpecError, match=r"train\.steps: 10 -> 20") as caught:
        backend.submit(plan("train.steps=20"), NO_REPLACE)
    assert "--replace" in caught.value.hint
    assert server.objects.list(JOBS, "team") == before


def test_replace_removes_the_old_attempt_and_starts_the_next(backend, server):
    backend.submit(plan(), NO_REPLACE)
    result = backend.submit(plan("train.steps=20"), REPLACE)
    assert (result.action, result.location) == ("replaced", "team/demo-2")
    assert list(jobs(server)) == ["demo-2"]
    stored = json.loads(server.objects.get(("v1", "configmaps"), "team", "demo-spec")["data"]["run.json"])
    assert stored["spec"]["train"]["steps"] == 20
    # The rendezvous of an attempt that ended may be closed for good.
    assert jobs(server)["demo-2"]["spec"]["elasticPolicy"]["rdzvId"].endswith("-2")


def test_replace_waits_until_the_old_job_is_gone_and_gives_up_in_time(backend, server, clock, monkeypatch):
    backend.submit(plan(), NO_REPLACE)
    monkeypatch.setattr(server.objects, "delete", lambda *args: {})  # a pod that does not end holds its job
    with pytest.raises(UnavailableError, match="still being deleted after 120 s"):
        backend.submit(plan("train.steps=20"), REPLACE)
    assert list(jobs(server)) == ["demo-1"]
    assert 120 < clock.now < 125


def test_a_lost_config_map_does_not_hide_a_changed_file(backend, server):
    backend.submit(plan(), NO_REPLACE)
    server.objects.delete(("v1", "configmaps"), "team", "demo-spec")
    assert backend.submit(plan(), NO_REPLACE).action == "unchanged"
    with pytest.raises(SpecError, match="exists with another spec"):
        backend.submit(plan("train.steps=20"), NO_REPLACE)


def test_a_damaged_config_map_counts_as_another_spec(backend, server):
    backend.submit(plan(), NO_REPLACE)
    server.objects.merge(("v1", "configmaps"), "team", "demo-spec", {"data": {"run.json": "{"}})
    with pytest.raises(SpecError, match="exists with another spec"):
        backend.submit(plan(), NO_REPLACE)


def test_stop_and_resume_keep_the_job(backend, server):
    backend.submit(plan(), NO_REPLACE)
    backend.stop("demo")
    job = jobs(server)["demo-1"]
    assert job["spec"]["runPolicy"]["suspend"] is True
    assert job["metadata"]["annotations"][names.ANNOTATION_STOPPED_BY] == "user"
    assert backend.status("demo").state == "Stopped"
    assert backend.submit(plan(), NO_REPLACE).action == "resumed"
    job = jobs(server)["demo-1"]
    assert job["spec"]["runPolicy"]["suspend"] is False
    assert names.ANNOTATION_STOPPED_BY not in job["metadata"]["annotations"]
    assert job["metadata"]["annotations"][names.ANNOTATION_STATE] == ""


def test_stop_waits_for_the_workers(backend, server, clock):
    backend.submit(plan(), NO_REPLACE)
    add_pod(server, "demo-1-worker-0")
    clock.on_sleep = lambda: (
        clock.now > 3 and server.objects.list(PODS) and server.objects.delete(PODS, "team", "demo-1-worker-0")
    )
    backend.stop("demo")
    assert clock.now > 3
    assert server.objects.list(PODS) == []


def test_stopping_a_finished_run_changes_nothing(backend, server):
    backend.submit(plan(), NO_REPLACE)
    add_condition(server, "demo-1", "Succeeded")
    before = len(writes(server))
    backend.stop("demo")
    assert len(writes(server)) == before


def test_submitting_a_failed_run_again_starts_a_new_attempt(backend, server):
    backend.submit(plan(), NO_REPLACE)
    add_condition(server, "demo-1", "Failed")
    result = backend.submit(plan(), NO_REPLACE)
    assert (result.action, result.location) == ("resumed", "team/demo-2")
    assert list(jobs(server)) == ["demo-2"]


def test_a_run_whose_job_expired_starts_over_from_its_checkpoints(backend, server):
    backend.submit(plan(), NO_REPLACE)
    server.objects.delete(JOBS, "team", "demo-1")
    assert backend.submit(plan(), NO_REPLACE).action == "resumed"


def test_status_shows_the_newest_attempt_and_only_its_pods(backend, server):
    backend.submit(plan(), NO_REPLACE)
    older = jobs(server)["demo-1"]
    newer = json.loads(json.dumps(older))
    newer["metadata"] = {k: v for k, v in older["metadata"].items() if k in ("labels", "annotations")}
    newer["metadata"]["name"] = "demo-2"
    newer["metadata"]["labels"] = {**older["metadata"]["labels"], names.LABEL_ATTEMPT: "2"}
    server.objects.create(JOBS, "team", newer)
    add_pod(server, "demo-1-worker-0", attempt=1)
    add_pod(server, "demo-2-worker-0", attempt=2)
    found = backend.status("demo")
    assert found.attempt == 2
    assert [p.name for p in found.pods] == ["demo-2-worker-0"]
    assert found.run_root == "s3://bucket/runs/demo"


def test_status_uses_only_events_of_the_run_and_needs_none(backend, server):
    backend.submit(plan(), NO_REPLACE)
    add_condition(server, "demo-1", "Created")
    for name, reason in (("demo-1", "FailedCreatePod"), ("other", "Noise")):
        event = {
            "metadata": {"name": f"e-{name}"},
            "involvedObject": {"name": name},
            "type": "Warning",
            "reason": reason,
        }
        server.objects.create(("v1", "events"), "team", event)
    assert backend.status("demo").reason == "FailedCreatePod"
    server.denied.add(("list", "events"))
    assert backend.status("demo").reason == ""


def test_unknown_runs(backend):
    for call in (backend.status, backend.stop, backend.delete, lambda n: list(backend.logs(n, False, None))):
        with pytest.raises(MissingError, match="there is no run none in namespace team"):
            call("none")


def test_list_has_one_line_per_run(backend, server):
    for name in ("demo", "other"):
        backend.submit(plan(f"name={name}"), NO_REPLACE)
    add_condition(server, "other-1", "Running")
    assert [(r.name, r.state, r.attempt) for r in backend.list()] == [("demo", "Pending", 1), ("other", "Running", 1)]


def test_delete_removes_all_objects_of_that_run_only(backend, server):
    backend.submit(plan("metrics.pod_monitor=true"), NO_REPLACE)
    backend.submit(plan("name=other"), NO_REPLACE)
    backend.delete("demo")
    left = {raw["metadata"]["labels"][names.LABEL_RUN] for raw in server.objects._objects.values()}
    assert left == {"other"}


def test_delete_works_without_the_podmonitor_crd_but_not_without_rights(backend, server):
    backend.submit(plan(), NO_REPLACE)
    del server.objects.types[("monitoring.coreos.com/v1", "podmonitors")]
    server.denied.add(("delete", "services"))
    with pytest.raises(Exception, match="no permission to delete services"):
        backend.delete("demo")
    server.denied.clear()
    backend.delete("demo")
    assert server.objects.list(DEPLOYMENTS) == []


def test_check_asks_the_server_but_stores_nothing(backend, server):
    assert [item["kind"] for item in backend.check(plan())][-1] == "PyTorchJob"
    assert jobs(server) == {}
    server.fail_next(FakeApiError(422, "Invalid", "spec is wrong"), verb="apply", plural="pytorchjobs")
    with pytest.raises(SpecError, match="spec is wrong"):
        backend.check(plan())


def test_missing_crd_and_podmonitor_crd(backend, server):
    del server.objects.types[("monitoring.coreos.com/v1", "podmonitors")]
    with pytest.raises(ClusterConfigError, match="PodMonitor CRD") as caught:
        backend.submit(plan("metrics.pod_monitor=true"), NO_REPLACE)
    assert "pod_monitor: false" in caught.value.hint
    del server.objects.types[JOBS]
    with pytest.raises(ClusterConfigError, match="PyTorchJob CRD"):
        backend.submit(plan(), NO_REPLACE)


def test_logs_of_all_workers_or_of_one_rank(backend, server):
    backend.submit(plan(), NO_REPLACE)
    for index in (0, 1):
        add_pod(server, f"demo-1-worker-{index}")
        server.logs[("team", f"demo-1-worker-{index}")] = f"[agent] up\n[rank {index}] step 1\n[rank {index}0] no\n"
    assert list(backend.logs("demo", False, None)) == [
        "[1-worker-0] [agent] up",
        "[1-worker-0] [rank 0] step 1",
        "[1-worker-0] [rank 00] no",
        "[1-worker-1] [agent] up",
        "[1-worker-1] [rank 1] step 1",
        "[1-worker-1] [rank 10] no",
    ]
    assert list(backend.logs("demo", False, 1)) == ["[rank 1] step 1"]


def test_logs_of_a_pod_that_waits_are_empty(backend, server):
    backend.submit(plan(), NO_REPLACE)
    add_pod(server, "demo-1-worker-0", phase="Pending")
    server.fail_next(FakeApiError(400, "BadRequest", "container is waiting to start"), plural="pods", verb="get")
    assert list(backend.logs("demo", False, None)) == []


def test_relative_paths_never_reach_a_cluster(backend, server):
    with pytest.raises(SpecError, match="relative path"):
        backend.submit(plan("data.train=./data"), NO_REPLACE)
    assert server.calls == []


VOLUMES = "scale.volumes=[{claim: c, mount: /data}, {claim: w, mount: /runs, read_only: false}]"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("data.train=s3://b/x", "checkpoint.path=https://h/x"), None),
        ((VOLUMES, "data.train=/data/train", "checkpoint.path=/runs/a"), None),
        ((VOLUMES, "data.train=file:///data/train"), None),
        (("data.train=data",), "data.train (data) is a relative path"),
        (("data.train=file://data",), "data.train (file://data) is a relative path"),
        (("checkpoint.path=/runs",), "checkpoint.path (/runs) is on no mounted volume"),
        ((VOLUMES, "data.train=/data/../etc"), "data.train (/data/../etc) is on no mounted volume"),
        ((VOLUMES, "data.train=/database"), "data.train (/database) is on no mounted volume"),
        ((VOLUMES, "checkpoint.path=/data/x"), "checkpoint.path (/data/x) is on a volume that is mounted read-only"),
        (("eval.retrieval.data=x",), "eval.retrieval.data (x) is a relative path"),
        (("eval.zero_shot={data: y, classes: [a, b]}",), "eval.zero_shot.data (y) is a relative path"),
    ],
)
def test_which_locations_pods_can_reach(overrides, problem):
    if problem is None:
        check_locations(spec_with(*overrides))
    else:
        with pytest.raises(SpecError) as caught:
            check_locations(spec_with(*overrides))
        assert problem in caught.value.problem


def test_differences_are_listed_by_field():
    old, new = (
        spec_with("env.GONE=x").resolved(),
        spec_with("train.steps=11", "scale.nodes.max=2", "env.NEW=y").resolved(),
    )
    assert spec_differences(old, new) == [
        'env.GONE: "x" -> (absent)',
        'env.NEW: (absent) -> "y"',
        "scale.nodes.max: 1 -> 2",
        "train.steps: 10 -> 11",
    ]
    assert spec_differences(new, new) == []
    assert spec_differences({"a": 1}, {"a": True}) == ["a: 1 -> true"]


def test_differences_hide_secrets_and_stay_short():
    assert spec_differences({"a": {"password": "x"}}, {"a": {"password": "y"}}) == ["a.password: *** -> ***"]
    old, new = {f"k{i}": 1 for i in range(30)}, {f"k{i}": 2 for i in range(30)}
    assert "... and 10 more" in refuse_changed("r", old, new).problem
    assert len(spec_differences({"a": "x" * 500}, {"a": "y"})[0]) < 140
