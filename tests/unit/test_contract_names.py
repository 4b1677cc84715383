"""Names that leave a process must fit where Kubernetes and torchrun put them."""

import re

import pytest

from clipctl.contract import metric_names, names

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LONGEST = "r" * names.MAX_RUN_NAME
DIGEST = "0123456789abcdef" * 4


def is_dns_label(name):
    return len(name) <= 63 and DNS_LABEL.fullmatch(name) is not None


@pytest.mark.parametrize("run", ["a", "demo-run", LONGEST])
@pytest.mark.parametrize("attempt", [1, 42, 9999])
def test_names_of_objects_are_dns_labels(run, attempt):
    assert is_dns_label(names.job_name(run, attempt))
    assert is_dns_label(names.worker_pod_name(run, attempt, 999))
    assert is_dns_label(names.rendezvous_name(run))
    assert is_dns_label(names.config_name(run))
    assert is_dns_label(names.rendezvous_id(run, DIGEST, attempt))


def test_the_longest_name_leaves_no_room():
    """44 is not arbitrary: one more, and the pod names of a large elastic run no longer fit."""
    assert len(names.worker_pod_name(LONGEST, 9999, 99999)) == 62
    assert not is_dns_label(names.worker_pod_name(LONGEST + "rr", 9999, 99999))


def test_names_of_different_runs_never_collide():
    runs = ["a", "a-1", "a-1-1", "a-spec", "a-rendezvous"]
    jobs = [names.job_name(run, attempt) for run in runs for attempt in (1, 2, 11)]
    assert len(jobs) == len(set(jobs))


def test_every_attempt_has_a_rendezvous_of_its_own():
    ids = {names.rendezvous_id("demo", digest, attempt) for digest in (DIGEST, DIGEST[::-1]) for attempt in (1, 2)}
    assert len(ids) == 4


def test_states_and_causes_are_complete():
    def constants(prefix):
        return {value for name, value in vars(names).items() if name.startswith(prefix)}

    assert set(names.STATES) == constants("STATE_")
    assert set(names.CAUSES) == constants("CAUSE_")
    assert set(names.STATES) > names.TERMINAL_STATES
    assert names.STATE_STOPPED not in names.TERMINAL_STATES


def test_ports_do_not_collide():
    ports = {names.RENDEZVOUS_PORT, names.METRICS_PORT, names.OPERATOR_METRICS_PORT}
    assert len(ports) == 3


@pytest.mark.parametrize(
    "name", ["RANK", "PET_RDZV_ID", "CLIPCTL_HOME", "TORCHELASTIC_RESTART_COUNT", "PYTHONSAFEPATH"]
)
def test_reserved_environment(name):
    assert name in names.RESERVED_ENV or name.startswith(names.RESERVED_ENV_PREFIXES)


@pytest.mark.parametrize("table", [metric_names.TRAINER_METRICS, metric_names.OPERATOR_METRICS])
def test_metric_tables_hold_every_metric_once(table):
    prefixes = {name.partition("_")[2] for name in ("clip_train_", "clip_run_", "clip_operator_")}
    defined = {value for value in vars(metric_names).values() if isinstance(value, metric_names.Metric)}
    assert len(table) == len(set(table))
    assert defined == {*metric_names.TRAINER_METRICS, *metric_names.OPERATOR_METRICS}
    assert all(metric.name.startswith(tuple(f"clip_{p}" for p in prefixes)) for metric in table)
