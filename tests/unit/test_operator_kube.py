"""The HTTP client against the fake API server: verbs, errors, pages, watches, deadlines."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from clip_operator import api as k8s
from clip_operator.kube import KubeApi
from clip_testkit import runs
from clip_testkit.fakeapi import FakeApiServer
from clip_testkit.fakeapi_errors import FakeApiError


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture
def api(server: FakeApiServer) -> KubeApi:
    return KubeApi(client.Configuration(host=server.url), watch_seconds=1)


def body(name: str = "a", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}}


def test_every_verb(api: KubeApi, server: FakeApiServer) -> None:
    made = api.create(k8s.CONFIGMAPS, "ns", body(run="x"))
    assert made["metadata"]["resourceVersion"]
    assert api.get(k8s.CONFIGMAPS, "ns", "a")["data"] == {"k": "v"}
    assert api.patch(k8s.CONFIGMAPS, "ns", "a", {"data": {"k": None, "l": "w"}})["data"] == {"l": "w"}
    current = api.get(k8s.CONFIGMAPS, "ns", "a")
    assert api.replace(k8s.CONFIGMAPS, "ns", "a", {**current, "data": {}})["data"] == {}
    listing = api.list(k8s.CONFIGMAPS, "ns", "run=x")
    assert [item["metadata"]["name"] for item in listing.items] == ["a"]
    assert listing.items[0]["kind"] == "ConfigMap"
    assert api.list(k8s.CONFIGMAPS, "ns", "run=y").items == []
    assert len(api.list(k8s.CONFIGMAPS, "").items) == 1
    api.delete(k8s.CONFIGMAPS, "ns", "a", made["metadata"]["uid"])
    with pytest.raises(k8s.NotFoundError):
        api.get(k8s.CONFIGMAPS, "ns", "a")
    assert {call.verb for call in server.calls} == {"create", "get", "patch", "update", "list", "delete"}


def test_cluster_scoped_and_grouped_resources(api: KubeApi, server: FakeApiServer) -> None:
    server.objects.create(("v1", "nodes"), "", {"metadata": {"name": "n"}})
    assert api.get(k8s.NODES, "", "n")["metadata"]["name"] == "n"
    api.create(k8s.PYTORCHJOBS, "ns", {"metadata": {"name": "j"}})
    assert server.calls[-1].place == ("kubeflow.org/v1", "pytorchjobs")


def test_conflicts(api: KubeApi) -> None:
    made = api.create(k8s.CONFIGMAPS, "ns", body())
    with pytest.raises(k8s.AlreadyExistsError):
        api.create(k8s.CONFIGMAPS, "ns", body())
    api.patch(k8s.CONFIGMAPS, "ns", "a", {"data": {"k": "2"}})
    version = made["metadata"]["resourceVersion"]
    with pytest.raises(k8s.ConflictError):
        api.patch(k8s.CONFIGMAPS, "ns", "a", {"metadata": {"resourceVersion": version}, "data": {"k": "3"}})
    with pytest.raises(k8s.ConflictError):
        api.replace(k8s.CONFIGMAPS, "ns", "a", made)


def test_delete_spares_another_object_of_the_same_name_and_accepts_absence(api: KubeApi) -> None:
    api.create(k8s.CONFIGMAPS, "ns", body())
    api.delete(k8s.CONFIGMAPS, "ns", "a", "uid-of-an-older-one")
    assert api.get(k8s.CONFIGMAPS, "ns", "a")
    api.delete(k8s.CONFIGMAPS, "ns", "never-there", "")


def test_force_delete_says_so(api: KubeApi, server: FakeApiServer) -> None:
    raw = server.objects.create(("v1", "pods"), "ns", {"metadata": {"name": "p"}})
    api.delete(k8s.PODS, "ns", "p", raw["metadata"]["uid"], grace_seconds=0)
    assert server.calls[-1].body["gracePeriodSeconds"] == 0
    assert server.calls[-1].body["propagationPolicy"] == "Background"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, k8s.RefusedError),
        (401, k8s.ForbiddenError),
        (403, k8s.ForbiddenError),
        (404, k8s.NotFoundError),
        (409, k8s.ConflictError),
        (410, k8s.GoneError),
        (422, k8s.RefusedError),
        (429, k8s.UnreachableError),
        (500, k8s.UnreachableError),
        (503, k8s.UnreachableError),
    ],
)
def test_statuses(api: KubeApi, server: FakeApiServer, code: int, expected: type[Exception]) -> None:
    server.fail_next(FakeApiError(code, "Test", "the reason why"))
    with pytest.raises(expected, match="the reason why"):
        api.list(k8s.PODS, "ns")


def test_retry_after_reaches_the_caller(api: KubeApi, server: FakeApiServer) -> None:
    server.fail_next(FakeApiError(429, "TooManyRequests", "slow down", retry_after=7))
    with pytest.raises(k8s.UnreachableError) as caught:
        api.list(k8s.PODS, "ns")
    assert caught.value.retry_after == 7
    assert len(server.calls) == 1, "the client itself does not retry"


def test_nobody_listening(server: FakeApiServer) -> None:
    gone = KubeApi(client.Configuration(host="http://127.0.0.1:1"))
    with pytest.raises(k8s.UnreachableError):
        gone.get(k8s.PODS, "ns", "p")
    with pytest.raises(k8s.UnreachableError):
        list(gone.watch(k8s.PODS, "ns", "", "0"))


def test_pages(api: KubeApi, server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_operator.kube._PAGE", 2)
    for index in range(5):
        server.objects.create(("v1", "pods"), "ns", {"metadata": {"name": f"p{index}"}})
    assert len(api.list(k8s.PODS, "ns").items) == 5
    assert len(server.calls) == 3


def test_watch_delivers_changes_and_ends(api: KubeApi, server: FakeApiServer) -> None:
    listing = api.list(k8s.PODS, runs.NAMESPACE)
    server.objects.create(("v1", "pods"), runs.NAMESPACE, runs.pod())
    server.objects.delete(("v1", "pods"), runs.NAMESPACE, "demo-1-worker-0")
    events = api.watch(k8s.PODS, runs.NAMESPACE, "clipctl.dev/run", listing.resource_version)
    assert [event["type"] for event in events] == ["ADDED", "DELETED"]
    assert server.calls[-1].query["timeoutSeconds"] == "1"
    assert server.calls[-1].query["allowWatchBookmarks"] == "true"


def test_watch_from_too_long_ago(api: KubeApi, server: FakeApiServer) -> None:
    server.objects.compact()
    with pytest.raises(k8s.GoneError):
        list(api.watch(k8s.PODS, "ns", "", "1"))


def test_watch_that_becomes_too_old_on_the_way(server: FakeApiServer) -> None:
    # Long enough: a watch that ends in good order before this thread gets to compact is no error.
    api = KubeApi(client.Configuration(host=server.url), watch_seconds=120)
    version = str(server.objects.version)
    events = api.watch(k8s.PODS, "ns", "", version)
    server.objects.create(("v1", "pods"), "ns", {"metadata": {"name": "p"}})
    next(events)
    server.objects.compact()
    with pytest.raises(k8s.GoneError):
        list(events)


def test_credentials_come_from_the_environment(
    server: FakeApiServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    path = tmp_path / "config"
    path.write_text(json.dumps(server.kubeconfig()))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert KubeApi.from_environment().list(k8s.PODS, "ns").items == []
    path.unlink()
    with pytest.raises(k8s.ForbiddenError, match="no credentials"):
        KubeApi.from_environment()
