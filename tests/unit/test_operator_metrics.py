"""What Prometheus sees: the names of the contract, bounded labels, and nothing of runs that are gone."""

import json

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from clip_operator.checkpoints import StorageProgress
from clip_operator.metrics import OperatorMetrics, RunSample
from clip_operator.pod_view import PodView
from clip_operator.world import CheckpointSummary, World
from clip_testkit import runs
from clipctl.contract import metric_names, names

KEY = (runs.NAMESPACE, runs.RUN)
LABELS = {"namespace": runs.NAMESPACE, "run": runs.RUN}


def sample(**annotations: str) -> RunSample:
    raw = runs.with_condition(runs.job(3, **annotations), "Running")
    pods = [PodView.parse(runs.pod(3, 0, restartCount=2)), PodView.parse(runs.pod(3, 1, phase="Pending"))]
    world = World.build(runs.NAMESPACE, runs.RUN, [raw], pods, 1)
    return RunSample.of(world, StorageProgress(80, 0.9, 60.0), CheckpointSummary("x", 40, ("damaged",)))


def exported(metrics: OperatorMetrics) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in families:
        for one in family.samples:
            found.setdefault(one.name, {})[frozenset(one.labels.items())] = one.value
    return found


def value(metrics: OperatorMetrics, name: str, **labels: str) -> float:
    return exported(metrics)[name][frozenset({**LABELS, **labels}.items())]


def test_a_run_is_described() -> None:
    metrics = OperatorMetrics()
    metrics.runs.put(KEY, sample(state="Running", attempt_causes=json.dumps(["hang", "hang", "preemption"])))
    assert value(metrics, "clip_run_state", state="Running") == 1
    assert value(metrics, "clip_run_state", state="Failed") == 0
    assert value(metrics, "clip_run_attempt") == 3
    assert value(metrics, "clip_run_attempts_total", cause="hang") == 2
    assert value(metrics, "clip_run_attempts_total", cause="data") == 0
    assert value(metrics, "clip_run_workers") == 1
    assert value(metrics, "clip_run_workers_wanted") == 2
    assert value(metrics, "clip_run_pod_restarts") == 2
    assert value(metrics, "clip_run_last_verified_step") == 40
    assert value(metrics, "clip_run_last_committed_step") == 80
    assert value(metrics, "clip_run_rejected_checkpoints") == 1
    assert value(metrics, "clip_run_goodput_ratio") == 0.9
    assert value(metrics, "clip_run_eta_seconds") == 60
    assert value(metrics, "clip_run_start_time_seconds") == 1767225600


def test_the_last_failure_of_a_failed_run_counts_too() -> None:
    failure = json.dumps({"cause": "out_of_memory", "code": 137, "pod": "w", "message": "m"})
    failed = sample(state="Failed", attempt_causes='["hang"]', last_failure=failure)
    assert failed.causes == ("hang", "out_of_memory")
    assert sample(state="Running", last_failure=failure).causes == ()


def test_a_run_that_is_gone_leaves_no_series() -> None:
    metrics = OperatorMetrics()
    metrics.runs.put(KEY, sample())
    metrics.runs.remove(KEY)
    metrics.runs.remove(KEY)
    assert "clip_run_state" not in exported(metrics)


def test_names_and_labels_are_those_of_the_contract() -> None:
    metrics = OperatorMetrics()
    metrics.runs.put(KEY, sample(state="Running"))
    metrics.reconcile_errors.labels("Conflict").inc()
    metrics.watch_restarts.labels("pods").inc()
    metrics.reconcile_seconds.observe(0.1)
    table = {metric.name: metric for metric in metric_names.OPERATOR_METRICS}
    seen = set()
    for name, series in exported(metrics).items():
        base = name
        for suffix in ("_bucket", "_count", "_sum", "_created"):
            base = base.removesuffix(suffix) if base.removesuffix(suffix) in (*table, f"{base}_total") else base
        if name.endswith("_created"):
            continue
        assert base in table, name
        seen.add(base)
        for labels in series:
            assert {key for key, _ in labels} - {"le"} == set(table[base].labels), name
    assert seen == set(table)


def test_cardinality_is_bounded() -> None:
    metrics = OperatorMetrics()
    metrics.runs.put(KEY, sample(state="Running"))
    series = sum(len(found) for name, found in exported(metrics).items() if name.startswith("clip_run_"))
    assert series <= 200
    assert series >= len(names.STATES) + len(names.CAUSES)
