import json
import socket
import threading

import pytest
import urllib3
import yaml

from clip_testkit.fakeapi import FakeApiError, FakeApiServer
from clipctl.apply import connect
from clipctl.apply.kinds import KINDS, RUN_KINDS
from clipctl.contract.errors import (
    ClusterConfigError,
    ExitCode,
    InternalError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)

JOBS = ("kubeflow.org/v1", "pytorchjobs")
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"}, "data": {"k": "v"}}


@pytest.fixture
def server():
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def kubeconfig(server, tmp_path, monkeypatch):
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(server.kubeconfig("team")))
    monkeypatch.setenv("KUBECONFIG", str(path))
    # The client reads the variable when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


@pytest.fixture
def cluster(kubeconfig):
    return connect()


def test_the_context_gives_server_and_namespace(cluster, server):
    assert (cluster.namespace, cluster.server) == ("team", server.url)
    assert connect(namespace="other").namespace == "other"
    assert cluster.server_version().startswith("v1.")


def test_apply_creates_and_updates(cluster, server):
    cluster.apply(CONFIG)
    cluster.apply({**CONFIG, "data": {"k": "w"}})
    assert cluster.get("ConfigMap", "c")["data"] == {"k": "w"}
    call = server.calls[0]
    assert call.verb == "apply"
    assert call.query["fieldManager"] == "clipctl"


def test_a_dry_run_stores_nothing(cluster, server):
    cluster.apply(CONFIG, dry_run=True)
    assert server.calls[-1].query["dryRun"] == "All"
    assert cluster.get("ConfigMap", "c") is None


def test_patch_delete_and_absence(cluster):
    cluster.apply(CONFIG)
    assert cluster.patch("ConfigMap", "c", {"data": {"k": None, "n": "1"}})["data"] == {"n": "1"}
    assert cluster.delete("ConfigMap", "c") is True
    assert cluster.delete("ConfigMap", "c") is False
    assert cluster.get("ConfigMap", "c") is None
    with pytest.raises(MissingError, match="there is no ConfigMap c in namespace team"):
        cluster.patch("ConfigMap", "c", {})


def test_lists_follow_pages_and_selectors(cluster, server, monkeypatch):
    monkeypatch.setattr("clipctl.apply.cluster._PAGE", 2)
    for i in range(5):
        labels = {"odd": str(i % 2)}
        cluster.apply({**CONFIG, "metadata": {"name": f"c{i}", "namespace": "team", "labels": labels}})
    assert [item["metadata"]["name"] for item in cluster.list("ConfigMap")] == ["c0", "c1", "c2", "c3", "c4"]
    assert [call.verb for call in server.calls].count("list") == 3
    assert [item["metadata"]["name"] for item in cluster.list("ConfigMap", labels="odd=1")] == ["c1", "c3"]
    assert len(list(cluster.list_everywhere("ConfigMap"))) == 5
    assert server.calls[-1].namespace == ""


def test_every_request_has_a_time_limit(cluster, monkeypatch):
    seen = []

    def answer(*args, **kwargs):
        seen.append(kwargs["_request_timeout"])
        return BrokenBody(b"{}")

    monkeypatch.setattr(cluster._api, "call_api", answer)
    cluster.get("Pod", "p")
    list(cluster.list("Pod"))
    cluster.apply(CONFIG)
    cluster.patch("ConfigMap", "c", {})
    cluster.delete("ConfigMap", "c")
    cluster.allowed("get", "", "pods")
    cluster.server_version()
    assert seen == [(5, 30)] * 7


def test_access_reviews(cluster, server):
    server.denied.add(("create", "pytorchjobs"))
    assert cluster.allowed("list", "kubeflow.org", "pytorchjobs") is True
    assert cluster.allowed("create", "kubeflow.org", "pytorchjobs") is False


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (FakeApiError(401, "Unauthorized", "Unauthorized"), PermissionDeniedError, "does not accept these credentials"),
        (
            FakeApiError(403, "Forbidden", 'configmaps is forbidden: User "x" cannot patch resource "configmaps"'),
            PermissionDeniedError,
            "no permission to patch configmaps in namespace team",
        ),
        (
            FakeApiError(403, "Forbidden", 'configmaps "c" is forbidden: exceeded quota: q'),
            ClusterConfigError,
            "exceeded quota: q",
        ),
        (FakeApiError(404, "NotFound", 'namespaces "team" not found'), ClusterConfigError, "namespace team does not"),
        (FakeApiError(409, "Conflict", "somebody was faster"), SpecError, "somebody was faster"),
        (FakeApiError(422, "Invalid", "spec.x: Invalid value"), SpecError, "refuses the ConfigMap c: spec.x"),
        (FakeApiError(500, "InternalError", "etcd is sad"), UnavailableError, "failed \\(500\\): etcd is sad"),
        (FakeApiError(418, "Teapot", "short and stout"), InternalError, "answered 418"),
    ],
)
def test_what_the_server_says_becomes_an_error_with_remedy(cluster, server, answer, error, words):
    server.fail_next(answer, times=10)
    with pytest.raises(error, match=words):
        cluster.apply(CONFIG)


def test_a_cluster_without_the_crd_is_78_and_says_how_to_install_it(cluster, server):
    del server.objects.types[JOBS]
    for call in (lambda: cluster.get("PyTorchJob", "x"), lambda: list(cluster.list("PyTorchJob"))):
        with pytest.raises(ClusterConfigError, match=r"PyTorchJob CRD .* is not installed") as caught:
            call()
        assert caught.value.code == ExitCode.CLUSTER_CONFIG
        assert "kubectl apply --server-side -k" in caught.value.hint


def test_an_api_server_that_answers_in_plain_text(cluster, server, monkeypatch):
    # A real server says "404 page not found" for an API it has never heard of.
    class PlainError(FakeApiError):
        def status(self):
            return "404 page not found\n"

    server.fail_next(PlainError(404, "", ""), times=3)
    with pytest.raises(ClusterConfigError, match="CRD"):
        cluster.get("PyTorchJob", "x")


def test_nobody_listening_is_69(kubeconfig, server):
    settings = server.kubeconfig()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{taken.getsockname()[1]}"
        kubeconfig.write_text(yaml.safe_dump(settings))
        with pytest.raises(UnavailableError, match="cannot be reached") as caught:
            connect().get("Pod", "p")
    assert "object at 0x" not in caught.value.problem


def test_a_server_that_never_answers_is_69(cluster, server):
    release = threading.Event()
    server.intercept(lambda call: release.wait(60) and None)
    try:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            cluster._call("/api/v1/pods", "GET", "list", KINDS["Pod"], "", read_seconds=0.05)
    finally:
        release.set()


class BrokenBody:
    """An answer whose body cannot be used."""

    def __init__(self, data):
        self._data = data

    @property
    def data(self):
        if isinstance(self._data, Exception):
            raise self._data
        return self._data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (urllib3.exceptions.ProtocolError("Connection broken"), "cannot be reached: Connection broken"),
        (b"<html>proxy login</html>", "is not JSON"),
    ],
)
def test_a_body_that_breaks_off_or_is_no_json_is_69(cluster, monkeypatch, data, words):
    monkeypatch.setattr(cluster._api, "call_api", lambda *args, **kwargs: BrokenBody(data))
    with pytest.raises(UnavailableError, match=words):
        cluster.get("Pod", "p")


def test_unknown_context(kubeconfig):
    with pytest.raises(SpecError, match="no context nope") as caught:
        connect(context="nope")
    assert caught.value.hint == "It has: fake."


def test_a_damaged_kubeconfig_is_78(kubeconfig):
    kubeconfig.write_text("clusters: [")
    with pytest.raises(ClusterConfigError):
        connect()


def test_no_kubeconfig_and_no_pod_is_78(kubeconfig):
    kubeconfig.unlink()
    with pytest.raises(ClusterConfigError, match="no usable kubeconfig") as caught:
        connect()
    assert "--local" in caught.value.hint


def test_paths_of_kinds():
    assert KINDS["Pod"].path("ns", "p") == "/api/v1/namespaces/ns/pods/p"
    assert KINDS["PyTorchJob"].path("ns") == "/apis/kubeflow.org/v1/namespaces/ns/pytorchjobs"
    assert KINDS["CustomResourceDefinition"].path("ns").endswith("/v1/customresourcedefinitions")
    assert KINDS["PyTorchJob"].group == "kubeflow.org"
    assert KINDS["Pod"].group == ""
    assert set(RUN_KINDS) <= set(KINDS)


def test_errors_never_show_the_token(cluster, server):
    server.fail_next(FakeApiError(422, "Invalid", "token=fake-token is bad"), times=5)
    with pytest.raises(SpecError) as caught:
        cluster.apply(CONFIG)
    from clipctl.output import clean

    assert "fake-token" not in clean(str(caught.value))
    assert json.dumps(clean(str(caught.value)))
