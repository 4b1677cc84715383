import os
from pathlib import Path

import pytest

from clip_trainer.elastic.settings import LaunchSettings
from clipctl.contract.errors import SpecError

CLUSTER = {
    "PET_NNODES": "1:4",
    "PET_NPROC_PER_NODE": "2",
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": "run-rendezvous:29400",
    "PET_RDZV_ID": "run-12345678-3",
    "PET_RDZV_CONF": "is_host=0,last_call_timeout=5",
    "PET_MAX_RESTARTS": "10",
    "CLIPCTL_NODE": "run-3-worker-1",
}


def test_what_training_operator_sets():
    settings = LaunchSettings.from_environment(CLUSTER)
    assert (settings.min_nodes, settings.max_nodes, settings.workers_per_node) == (1, 4, 2)
    assert (settings.endpoint, settings.rendezvous_id) == ("run-rendezvous:29400", "run-12345678-3")
    assert (settings.max_restarts, settings.node, settings.last_call) == (10, "run-3-worker-1", 5.0)


def test_node_without_a_name_is_its_host(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "pod-7")
    assert LaunchSettings.from_environment({}).node == "pod-7"


@pytest.mark.parametrize("conf", ["", "is_host=0", "join_timeout=3,read_timeout=1"])
def test_first_group_waits_a_second_for_more(conf):
    assert LaunchSettings.from_environment({"PET_RDZV_CONF": conf}).last_call == 1.0


def test_empty_environment_is_one_worker_alone():
    settings = LaunchSettings.from_environment({})
    assert (settings.min_nodes, settings.max_nodes, settings.workers_per_node, settings.endpoint) == (1, 1, 1, "")
    assert settings.monitor_interval == 0.1
    assert settings.termination_log == Path("/dev/termination-log")


def test_plain_node_count_is_minimum_and_maximum():
    settings = LaunchSettings.from_environment({**CLUSTER, "PET_NNODES": "3"})
    assert (settings.min_nodes, settings.max_nodes) == (3, 3)


@pytest.mark.parametrize("word", ["cpu", "auto"])
def test_worker_count_by_word_is_at_least_one(word):
    count = LaunchSettings.from_environment({"PET_NPROC_PER_NODE": word}).workers_per_node
    assert 1 <= count <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PET_NNODES", "two"),
        ("PET_NNODES", "0:2"),
        ("PET_NNODES", "3:2"),
        ("PET_NNODES", "1:2:3"),
        ("PET_NPROC_PER_NODE", "0"),
        ("PET_NPROC_PER_NODE", "-1"),
        ("PET_NPROC_PER_NODE", "many"),
        ("PET_RDZV_BACKEND", "etcd"),
        ("PET_RDZV_CONF", "is_host"),
        ("PET_RDZV_CONF", "=1"),
        ("PET_RDZV_CONF", "last_call_timeout=soon"),
        ("PET_MAX_RESTARTS", "-1"),
        ("PET_MAX_RESTARTS", "some"),
        ("PET_MONITOR_INTERVAL", "0"),
        ("PET_MONITOR_INTERVAL", "nan"),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(SpecError) as caught:
        LaunchSettings.from_environment({**CLUSTER, name: value})
    assert name in str(caught.value)
    assert caught.value.code == 64


def test_several_nodes_need_an_endpoint():
    with pytest.raises(SpecError, match="PET_RDZV_ENDPOINT"):
        LaunchSettings.from_environment({"PET_NNODES": "2"})
