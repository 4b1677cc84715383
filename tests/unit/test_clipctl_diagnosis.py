import json
import socket

import pytest
import yaml

from clip_testkit.fakeapi import FakeApiServer
from clipctl import diagnosis
from clipctl.apply import connect
from clipctl.cli import main
from clipctl.contract.errors import ExitCode
from clipctl.diagnosis import Check, check_cluster, check_machine, check_storage, exit_code

DEPLOYMENTS = ("apps/v1", "deployments")


@pytest.fixture
def server(tmp_path, monkeypatch):
    with FakeApiServer() as server:
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(server.kubeconfig("team")))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        yield server


def deploy(server, name, ready=1):
    server.objects.create(DEPLOYMENTS, "kubeflow", {"metadata": {"name": name}, "status": {"readyReplicas": ready}})


def results(checks):
    return {check.name: check.result for check in checks}


def test_a_good_cluster_is_all_ok(server):
    deploy(server, "training-operator")
    deploy(server, "clip-operator")
    checks = list(check_cluster(connect(), None))
    assert set(results(checks).values()) == {"ok"}
    assert exit_code(checks) == ExitCode.OK


def test_what_is_missing_is_named_with_a_remedy(server):
    deploy(server, "training-operator", ready=0)
    del server.objects.types[("kubeflow.org/v1", "pytorchjobs")]
    checks = list(check_cluster(connect(), None))
    found = results(checks)
    assert found["PyTorchJob CRD"] == "fail"
    assert found["training-operator"] == "fail"
    assert found["clip-operator"] == "warn"
    assert exit_code(checks) == ExitCode.CLUSTER_CONFIG
    assert all(check.remedy for check in checks if check.result != "ok")


def test_missing_rights_are_listed_and_exit_77(server):
    deploy(server, "training-operator")
    server.denied |= {("create", "pytorchjobs"), ("patch", "pytorchjobs"), ("list", "events")}
    checks = list(check_cluster(connect(), None))
    failed = {check.name: check.detail for check in checks if check.result == "fail"}
    assert failed == {"may use pytorchjobs": "not allowed: create, patch", "may use events": "not allowed: list"}
    assert exit_code(checks) == ExitCode.PERMISSION


def test_operators_that_cannot_be_seen_are_only_a_warning(server):
    server.denied.add(("list", "deployments"))
    assert results(check_cluster(connect(), None))["training-operator"] == "warn"


def test_an_unreachable_server_ends_the_cluster_checks(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        with FakeApiServer() as server:
            settings = server.kubeconfig()
        settings["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(settings))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        checks = list(check_cluster(connect(), "q"))
    assert [(check.name, check.result) for check in checks] == [("api server", "fail")]


def test_a_queue_that_is_not_there(server):
    checks = list(check_cluster(connect(), "gpu"))
    assert results(checks)["queue gpu"] == "fail"


def test_storage(tmp_path):
    (tmp_path / "x").write_text("1")
    assert check_storage(str(tmp_path)).result == "ok"
    assert check_storage("ftp://x").code == ExitCode.USAGE


def test_the_machine(monkeypatch):
    assert results(check_machine())["python"] == "ok"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("os.statvfs", lambda path: (_ for _ in ()).throw(OSError()))
    found = list(check_machine())
    assert results(found) == {"python": "ok", "helm": "warn", "trainer": "warn", "shared memory": "warn"}
    assert exit_code(found) == ExitCode.OK


def test_exit_codes():
    denied = Check("a", "fail", "", code=ExitCode.PERMISSION)
    absent = Check("b", "fail", "", code=ExitCode.CLUSTER_CONFIG)
    assert exit_code([Check("c", "warn", "")]) == ExitCode.OK
    assert exit_code([denied]) == ExitCode.PERMISSION
    assert exit_code([denied, absent]) == ExitCode.CLUSTER_CONFIG


def test_the_command(server, capsys, tmp_path):
    deploy(server, "training-operator")
    assert main(["doctor", "--storage", str(tmp_path), "--json"]) == 0
    names = [check["name"] for check in json.loads(capsys.readouterr().out)]
    assert {"python", "api server", "storage"} <= set(names)
    assert main(["doctor", "--context", "nope"]) == ExitCode.CLUSTER_CONFIG
    assert "no context nope" in capsys.readouterr().out
    assert main(["doctor", "--local"]) == 0


def test_the_rights_checked_are_those_the_commands_use():
    # Whatever `submit`, `status`, `stop` and `delete` ask of the server must be in the list `doctor` checks.
    from clipctl.apply import KINDS, RUN_KINDS

    listed = {resource: set(verbs) for _, resource, verbs in diagnosis.NEEDED_RIGHTS}
    for kind in set(RUN_KINDS) - {"PodMonitor"}:
        assert {"list", "patch", "create", "delete"} <= listed[KINDS[kind].plural]
    assert "list" in listed["pods"]
    assert "get" in listed["pods/log"]
