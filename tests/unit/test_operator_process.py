"""The assembled operator against the fake API server over HTTP: settings, probes, logs, leading, stopping."""

import functools
import io
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client

from clip_operator import jsonlog, main, webserver
from clip_operator.controller import Controller, Scope
from clip_operator.kube import KubeApi
from clip_operator.lease import LeaderElector, LeaseTiming
from clip_operator.metrics import OperatorMetrics
from clip_operator.settings import Settings, parse
from clip_testkit import runs
from clip_testkit.fakeapi import FakeApiServer
from clip_testkit.fakeapi_errors import FakeApiError
from clip_testkit.trainingsim import JOBS, TrainingSim
from clipctl.contract import names

PATIENCE = 60


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


def connect(server: FakeApiServer) -> KubeApi:
    return KubeApi(client.Configuration(host=server.url), watch_seconds=5)


def eventually(server: FakeApiServer, holds: Callable[[], bool]) -> None:
    """Wait for changes of the server's objects until `holds`."""
    with server.objects.changed:
        assert server.objects.changed.wait_for(holds, PATIENCE)


def state(server: FakeApiServer) -> str:
    annotations = server.objects.get(JOBS, runs.NAMESPACE, "demo-1")["metadata"]["annotations"]
    return str(annotations.get(names.ANNOTATION_STATE, ""))


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_run_is_seen_judged_and_reported(server: FakeApiServer) -> None:
    metrics = OperatorMetrics()
    controller = Controller(connect(server), Scope((runs.NAMESPACE,)), metrics, lambda: True)
    assert controller.problem
    threads = controller.start(workers=2)
    sim = TrainingSim(server.objects)
    runs.install(server.objects, runs.job(root="/data/demo"))
    sim.step()
    eventually(server, lambda: state(server) == names.STATE_RUNNING)
    for informer in (*controller._jobs.values(), *controller._pods.values()):
        # A worker reads the API server itself: it may be done before the first listing of the pods is.
        assert informer.synced.wait(PATIENCE)
    assert controller.problem == ""
    sim.crash("demo-1-worker-0", 64, message="run.yaml: no such model")
    eventually(server, lambda: state(server) == names.STATE_FAILED)
    sim.step()
    assert sim.pods("demo-1") == [], "the devices are free"
    controller.stop()
    for thread in threads[-2:]:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_errors_of_the_server_are_survived(server: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    for verb in ("list", "watch", "patch"):
        server.fail_next(FakeApiError(503, "ServiceUnavailable", "not now"), verb=verb)
    metrics = OperatorMetrics()
    controller = Controller(connect(server), Scope(), metrics, lambda: True)
    runs.install(server.objects, runs.job(root="/data/demo"))
    with caplog.at_level(logging.CRITICAL, "clip_operator"):
        controller.start(workers=1)
        eventually(server, lambda: state(server) == names.STATE_PENDING)
    controller.stop()


def test_a_standby_watches_but_does_not_act(server: FakeApiServer) -> None:
    leads = threading.Event()
    controller = Controller(connect(server), Scope((runs.NAMESPACE,)), OperatorMetrics(), leads.is_set)
    runs.install(server.objects, runs.job(root="/data/demo"))
    listed = threading.Event()
    server.intercept(lambda call: listed.set() if call.verb == "watch" and call.plural == "pytorchjobs" else None)
    controller.start(workers=1)
    assert listed.wait(PATIENCE)
    assert not [call for call in server.calls if call.verb in ("patch", "create", "delete")]
    leads.set()
    eventually(server, lambda: state(server) == names.STATE_PENDING)
    controller.stop()


def test_a_missing_crd_keeps_it_up_but_not_ready(server: FakeApiServer) -> None:
    del server.objects.types[JOBS]
    asked = threading.Semaphore(0)
    server.intercept(lambda call: asked.release() if call.plural == "pytorchjobs" else None)
    controller = Controller(connect(server), Scope((runs.NAMESPACE,)), OperatorMetrics(), lambda: True)
    controller.start(workers=1)
    assert asked.acquire(timeout=PATIENCE)
    assert asked.acquire(timeout=PATIENCE), "it asks again"
    assert "install Kubeflow training-operator" in controller.problem
    controller.stop()


def test_a_bug_in_one_run_does_not_stop_the_others(server: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    metrics = OperatorMetrics()
    controller = Controller(connect(server), Scope((runs.NAMESPACE,)), metrics, lambda: True)

    def broken(*_: Any) -> float:
        raise ZeroDivisionError("a defect")

    controller._reconciler.reconcile = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.CRITICAL, "clip_operator"):
        controller.process((runs.NAMESPACE, "demo"))
    assert len(controller.queue) == 1, "it is tried again"
    assert metrics.reconcile_errors.labels("Bug")._value.get() == 1


def test_the_whole_process_leads_serves_and_hands_over(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only who still leads hands over, and a busy machine may take longer than ten seconds from here to there.
    patient = functools.partial(LeaderElector, timing=LeaseTiming(duration=900, renew_deadline=600))
    monkeypatch.setattr(main, "LeaderElector", patient)
    stopping = threading.Event()
    settings = Settings((runs.NAMESPACE,), "clip-system", "op", 0, "info", 1, read_nodes=True)
    outcome: list[int] = []
    thread = threading.Thread(target=lambda: outcome.append(main.run(connect(server), settings, stopping)))
    with server.objects.changed:
        thread.start()
        place = ("coordination.k8s.io/v1", "leases")
        assert server.objects.changed.wait_for(lambda: server.objects.list(place) != [], PATIENCE)
    stopping.set()
    thread.join(PATIENCE)
    assert outcome == [0]
    assert server.objects.get(place, "clip-system", "op")["spec"]["holderIdentity"] == ""


def test_losing_the_lease_ends_the_process_to_start_anew(server: FakeApiServer) -> None:
    class Elector:
        timing = type("T", (), {"retry": 0.0})
        answers = iter([False, True, True, False])

        def step(self) -> bool:
            return next(self.answers)

    assert main._lead(Elector(), threading.Event()) is True  # type: ignore[arg-type]


def test_probes() -> None:
    why = ["the cluster has no pytorchjobs"]
    served = webserver.serve(0, OperatorMetrics().registry, lambda: why[0], host="127.0.0.1")
    port = served.server_port
    try:
        assert fetch(port, "/healthz") == (200, "ok\n")
        assert fetch(port, "/readyz") == (503, "the cluster has no pytorchjobs\n")
        why[0] = ""
        assert fetch(port, "/readyz") == (200, "ok\n")
        assert "clip_operator_leader" in fetch(port, "/metrics")[1]
        assert fetch(port, "/else")[0] == 404
    finally:
        served.shutdown()
        served.server_close()


def test_settings_have_environment_defaults() -> None:
    found = parse([], {"POD_NAMESPACE": "clip", "CLIP_OPERATOR_WORKERS": "2", "CLIP_OPERATOR_NO_NODES": "1"})
    assert found == Settings(("clip",), "clip", "clip-operator", names.OPERATOR_METRICS_PORT, "info", 2, False)
    assert parse(["--namespaces=b, a,b"], {}).namespaces == ("b", "a")
    assert parse(["--namespaces=*"], {}).namespaces == ()


@pytest.mark.parametrize("arguments", [["--workers=0"], ["--workers=many"], ["--log-level=loud"], ["--what"]])
def test_wrong_settings_exit_with_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments, {})
    assert caught.value.code == 64
    assert "usage:" in capsys.readouterr().out


def test_no_cluster_is_one_line_and_78(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.setattr(jsonlog, "set_up", lambda level: None)
    assert main.main([]) == 78


def test_logs_are_json_without_credentials() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(jsonlog.JsonFormatter())
    logger = logging.Logger("clip_operator.test")
    logger.addHandler(handler)
    try:
        raise ValueError("password=hunter22")
    except ValueError:
        logger.exception("failed for %s", "https://bob:hunter22@host", extra={"run": "ns/demo", "number": 3})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["run"], line["number"]) == ("error", "ns/demo", 3)
    assert "Traceback" in line["traceback"]
    assert "hunter22" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
