"""The operator and the command line pass their failpoints; what comes after does not happen."""

import pytest

from clip_operator import checkpoints
from clip_operator.actions import Executor
from clip_operator.api import LEASES
from clip_operator.decisions import ScaleRendezvous
from clip_operator.lease import LeaderElector
from clip_operator.metrics import RunCollector
from clip_operator.moments import format_time
from clip_operator.reconciler import Reconciler
from clip_operator.snapshot import Snapshots
from clip_testkit import runs
from clip_testkit.directapi import DirectApi
from clip_testkit.fakeapi_objects import FakeObjects
from clip_testkit.trainingsim import TrainingSim
from clipctl.apply.cluster import Cluster
from clipctl.backends import supervisor
from clipctl.backends.localstate import RunDirectory
from clipctl.contract.failpoints import armed
from clipctl.contract.spec import RunSpec
from clipctl.contract.store_local import LocalStore

NOW = 1_767_225_600.0


def test_a_leader_dies_before_it_renews():
    objects = FakeObjects()
    now = [0.0]
    elector = LeaderElector(DirectApi(objects), "ns", "op", "me", monotonic=lambda: now[0], wall=lambda: NOW)
    assert elector.step()
    before = objects.get((LEASES.api_version, LEASES.plural), "ns", "op")
    now[0] = 2.0
    with armed("operator.renew=raise") as fired, pytest.raises(RuntimeError):
        elector.step()
    assert fired == ["operator.renew"]
    assert objects.get((LEASES.api_version, LEASES.plural), "ns", "op") == before


def test_the_operator_dies_before_an_action():
    executor = Executor(DirectApi(FakeObjects()), lambda: NOW, lambda: True)
    with armed("operator.act=raise") as fired, pytest.raises(RuntimeError):
        executor.execute(None, [ScaleRendezvous(0)])
    assert fired == ["operator.act"]


def test_the_operator_dies_after_its_actions_and_finds_nothing_left_to_do():
    objects = FakeObjects(now=lambda: format_time(NOW))
    sim = TrainingSim(objects)
    runs.install(objects, runs.job(retry_section=runs.retry()))
    sim.step()
    api = DirectApi(objects)
    snapshots = Snapshots(api, lambda _: [], lambda: NOW, read_nodes=True)
    executor = Executor(api, lambda: NOW, lambda: True)
    reconciler = Reconciler(snapshots, executor, RunCollector(), lambda: NOW)
    key = (runs.NAMESPACE, runs.RUN)
    with armed("operator.acted=raise@1;operator.act=note") as fired:
        with pytest.raises(RuntimeError):
            reconciler.reconcile(key)
        done = len(fired)
        reconciler.reconcile(key)
    assert fired[-1] == "operator.acted"
    assert len(fired) == done


def test_storage_that_cannot_be_asked_does_not_hold_a_run_back(tmp_path):
    with armed("operator.inspect=error:unavailable") as fired:
        summary = checkpoints.inspect("s3://bucket/run", lambda _: LocalStore(tmp_path))
    assert fired == ["operator.inspect"]
    assert "storage cannot be asked" in summary.problem


def test_an_object_is_not_applied():
    with armed("cli.apply=error:unavailable") as fired, pytest.raises(Exception, match="says so"):
        Cluster(None, "team").apply({"kind": "ConfigMap", "metadata": {"name": "c"}})
    assert fired == ["cli.apply"]


@pytest.fixture
def local(tmp_path):
    spec = RunSpec.model_validate(
        {
            "name": "digits",
            "model": {"name": "ViT-tiny-8-32"},
            "data": {"train": "/data"},
            "train": {"global_batch": 8, "steps": 10},
            "checkpoint": {"path": "/runs"},
        }
    )
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir(parents=True)
    return supervisor.Supervisor(directory, spec, None, lambda: NOW, lambda seconds: None)


def test_a_local_run_whose_supervisor_dies_before_it_starts_anything(local, monkeypatch):
    started = []
    attempt = type("Attempt", (), {"__init__": lambda self, *_: None, "start": lambda self: started.append(1)})
    monkeypatch.setattr(supervisor, "Attempt", attempt)
    with armed("local.attempt=raise") as fired, pytest.raises(RuntimeError):
        local.run()
    assert (fired, started) == (["local.attempt"], [])


def test_a_local_run_whose_end_is_not_on_disk(local, monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_one_attempt", lambda: {"state": "Succeeded"})
    with armed("local.finished=raise") as fired, pytest.raises(RuntimeError):
        local.run()
    assert fired == ["local.finished"]
    assert "Succeeded" not in "".join(file.read_text() for file in (tmp_path / "run").iterdir() if file.is_file())
