"""The fake API server keeps the promises its users rely on."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from clip_testkit.fakeapi import FakeApiServer
from clip_testkit.fakeapi_errors import FakeApiError
from clip_testkit.fakeapi_objects import FakeObjects, matches, merge_patch

PODS = ("v1", "pods")


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


def ask(server: FakeApiServer, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": content_type}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a"], ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_as_in_rfc_7386(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("selector", "fits"),
    [("", True), ("a=1", True), ("a==1", True), ("a=2", False), ("a!=2", True), ("a", True), ("!a", False),
     ("b", False), ("!b", True), ("a=1,b", False), ("a=1,!b", True)],
)  # fmt: skip
def test_selectors(selector: str, fits: bool) -> None:
    assert matches(selector, {"metadata": {"labels": {"a": "1"}}}) is fits


def test_versions_rise_and_stale_writes_conflict() -> None:
    objects = FakeObjects()
    first = objects.create(PODS, "ns", {"metadata": {"name": "p"}})
    second = objects.merge(PODS, "ns", "p", {"spec": {"x": 1}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert second["metadata"]["generation"] == 2
    for write in (lambda: objects.update(PODS, "ns", "p", first),):
        with pytest.raises(FakeApiError) as caught:
            write()
        assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    again = objects.merge(PODS, "ns", "p", {"spec": {"x": 1}})
    assert again["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"], "no change, no event"


def test_owned_objects_go_with_their_owner() -> None:
    objects = FakeObjects()
    owner = objects.create(("apps/v1", "deployments"), "ns", {"metadata": {"name": "d"}})
    references = [{"uid": owner["metadata"]["uid"]}]
    objects.create(PODS, "ns", {"metadata": {"name": "p", "ownerReferences": references}})
    objects.delete(("apps/v1", "deployments"), "ns", "d")
    assert objects.list(PODS) == []


def test_results_are_copies() -> None:
    objects = FakeObjects()
    objects.create(PODS, "ns", {"metadata": {"name": "p"}})["metadata"]["name"] = "changed"
    objects.get(PODS, "ns", "p")["metadata"]["labels"] = {"a": "b"}
    assert "labels" not in objects.get(PODS, "ns", "p")["metadata"]


def test_server_side_apply_creates_then_merges(server: FakeApiServer) -> None:
    path = "/api/v1/namespaces/ns/configmaps/c?fieldManager=test&force=true"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    assert ask(server, "PATCH", path, body, "application/apply-patch+yaml")[0] == 200
    assert ask(server, "PATCH", path, {**body, "data": {"b": "2"}}, "application/apply-patch+yaml")[0] == 200
    assert server.objects.get(("v1", "configmaps"), "ns", "c")["data"] == {"a": "1", "b": "2"}
    ask(server, "PATCH", f"{path}&dryRun=All", {**body, "data": {"c": "3"}}, "application/apply-patch+yaml")
    assert "c" not in server.objects.get(("v1", "configmaps"), "ns", "c")["data"]
    assert [call.verb for call in server.calls] == ["apply"] * 3


def test_discovery_and_version(server: FakeApiServer) -> None:
    assert "fake" in ask(server, "GET", "/version")[1]
    resources = json.loads(ask(server, "GET", "/apis/kubeflow.org/v1")[1])["resources"]
    assert [item["kind"] for item in resources] == ["PyTorchJob"]
    del server.objects.types["kubeflow.org/v1", "pytorchjobs"]
    assert ask(server, "GET", "/apis/kubeflow.org/v1")[0] == 404
    groups = json.loads(ask(server, "GET", "/apis")[1])["groups"]
    assert "kubeflow.org" not in [group["name"] for group in groups]


def test_faults_denials_and_logs(server: FakeApiServer) -> None:
    server.fail_next(FakeApiError(500, "InternalError", "boom"), verb="get", times=2)
    server.objects.create(PODS, "ns", {"metadata": {"name": "p"}})
    path = "/api/v1/namespaces/ns/pods/p"
    assert [ask(server, "GET", path)[0] for _ in range(3)] == [500, 500, 200]
    server.denied.add(("delete", "pods"))
    assert ask(server, "DELETE", path)[0] == 403
    server.logs["ns", "p"] = "step 1\n"
    assert ask(server, "GET", f"{path}/log") == (200, "step 1\n")
    review = {"spec": {"resourceAttributes": {"verb": "delete", "resource": "pods"}}}
    answer = ask(server, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)[1]
    assert json.loads(answer)["status"]["allowed"] is False


def test_what_a_listing_does_not_hold_is_told_by_a_watch_from_its_version(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = server.objects
    listed = objects.list

    def write() -> None:
        if objects.changed.acquire(blocking=False):  # else this writer comes later
            objects.create(PODS, "ns", {"metadata": {"name": "p"}})
            objects.changed.release()

    def list_while_somebody_writes(*arguments: Any) -> Any:
        found = listed(*arguments)
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        return found

    monkeypatch.setattr(objects, "list", list_while_somebody_writes)
    answer = json.loads(ask(server, "GET", "/api/v1/namespaces/ns/pods")[1])
    since = int(answer["metadata"]["resourceVersion"])
    told = [event["object"] for _, event in objects.events_after(PODS, "ns", "", since)]
    assert [*answer["items"], *told] == listed(PODS, "ns")


def test_a_watch_is_told_what_happened_since(server: FakeApiServer) -> None:
    since = server.objects.version
    server.objects.create(PODS, "ns", {"metadata": {"name": "p", "labels": {"a": "1"}}})
    server.objects.create(PODS, "ns", {"metadata": {"name": "q"}})
    path = f"/api/v1/namespaces/ns/pods?watch=true&resourceVersion={since}&labelSelector=a&timeoutSeconds=1"
    status, text = ask(server, "GET", path)
    assert status == 200
    events = [json.loads(line) for line in text.splitlines()]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [("ADDED", "p")]
