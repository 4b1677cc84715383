"""Write the Grafana dashboards of charts/clip-operator; `--check` only compares and exits with 1 on a difference.

Panels are built from the metric table of the contract, so that a query cannot name a metric that does not exist.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from clipctl.contract import metric_names as m
from clipctl.contract.metric_names import Metric

FOLDER = Path(__file__).resolve().parent.parent / "charts" / "clip-operator" / "dashboards"
_RUN = 'namespace=~"$namespace", run=~"$run"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_EACH = "namespace, run"  # runs of the same name in two namespaces are two runs
_NAME = "{{namespace}}/{{run}}"
_RARE = "[1h]"  # checkpoints are too rare for $__rate_interval
_RECENT = "[$__rate_interval]"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


class Panel(NamedTuple):
    """One graph: its queries with their legends."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def per_run(metric: Metric, *labels: str) -> str:
    """The value of a gauge for each chosen run and each of `labels`.

    The maximum joins what is not the run's: all ranks say the same, and after a change of leader the operator's series
    of two pods are one.
    """
    return f"max by ({', '.join((_EACH, *labels))}) ({metric.name}{{{_RUN}}})"


def summed_rate(metric: Metric, window: str, suffix: str = "", extra: str = "", by: str = _EACH) -> str:
    """Growth a second of a counter (or of a histogram's `_sum` and `_count`), over all ranks of each chosen run."""
    return f"sum by ({by}) (rate({metric.name}{suffix}{{{_RUN}{extra}}}{window}))"


def counted(metric: Metric, *labels: str) -> str:
    """A counter as it stands, over all ranks of each chosen run."""
    return f"sum by ({', '.join((_EACH, *labels))}) ({metric.name}{{{_RUN}}})"


def mean(metric: Metric, window: str, by: str = _EACH) -> str:
    """Mean of a histogram's observations; nothing where there were none."""
    total, count = (summed_rate(metric, window, suffix, by=by) for suffix in ("_sum", "_count"))
    return f"{total} / ({count} > 0)"


def _one(title: str, unit: str, expression: str, legend: str = _NAME) -> Panel:
    return Panel(title, unit, ((expression, legend),))


def runs_row() -> list[Panel]:
    """How the runs stand."""
    workers = ((per_run(m.RUN_WORKERS), f"{_NAME} running"), (per_run(m.RUN_WORKERS_WANTED), f"{_NAME} wanted"))
    goodput = f"{per_run(m.RUN_GOODPUT)} or {per_run(m.TRAIN_GOODPUT)}"  # the operator cannot see a PVC
    return [
        _one("State", "short", f"{per_run(m.RUN_STATE, 'state')} == 1", f"{_NAME}: {{{{state}}}}"),
        _one("Goodput", "percentunit", goodput),
        _one("Time to the end", "s", per_run(m.RUN_ETA)),
        _one("Age of the run", "s", f"time() - {per_run(m.RUN_AGE)}"),
        Panel("Workers", "short", workers),
        _one("Ranks (world size)", "short", per_run(m.TRAIN_WORLD_SIZE)),
    ]


def recovery_row() -> list[Panel]:
    """What failed, and what it cost or would cost."""
    steps = (
        (per_run(m.RUN_COMMITTED_STEP), f"{_NAME} committed"),
        (per_run(m.RUN_VERIFIED_STEP), f"{_NAME} verified at resume"),
    )
    attempts = f"{per_run(m.RUN_ATTEMPTS, 'cause')} > 0"
    return [
        _one("Attempt", "short", per_run(m.RUN_ATTEMPT)),
        _one("Failed attempts by cause", "short", attempts, f"{_NAME}: {{{{cause}}}}"),
        _one("Container restarts", "short", per_run(m.RUN_POD_RESTARTS)),
        # Every rank counts the same changes of its group; the oldest one has seen the most.
        _one(
            "Changes of the group by rung, since the oldest worker started",
            "short",
            per_run(m.TRAIN_RECOVERIES, "rung"),
            f"{_NAME}: {{{{rung}}}}",
        ),
        _one(
            "Seconds of a change, by rung (mean of 1 h)",
            "s",
            mean(m.TRAIN_RECOVERY_SECONDS, _RARE, f"{_EACH}, rung"),
            f"{_NAME}: {{{{rung}}}}",
        ),
        _one("The last change, by phase", "s", per_run(m.TRAIN_RECOVERY_PHASE, "phase"), f"{_NAME}: {{{{phase}}}}"),
        Panel("Checkpoints (step)", "short", steps),
        _one("Steps since the last checkpoint", "short", f"{per_run(m.TRAIN_STEP)} - {per_run(m.RUN_COMMITTED_STEP)}"),
        _one("Damaged checkpoints passed over", "short", per_run(m.RUN_REJECTED)),
        _one("Training waits for a checkpoint (mean of 1 h)", "s", mean(m.TRAIN_CHECKPOINT_STALL, _RARE)),
        _one("A checkpoint from its step to its commit (mean of 1 h)", "s", mean(m.TRAIN_CHECKPOINT_SECONDS, _RARE)),
        _one("Checkpoints not stored since the workers started", "short", per_run(m.TRAIN_CHECKPOINT_FAILURES)),
    ]


def training_row() -> list[Panel]:
    """How training goes and where its time is spent."""
    seconds = m.TRAIN_STEP_SECONDS
    return [
        _one("Loss", "short", per_run(m.TRAIN_LOSS)),
        _one("Samples per second", "short", per_run(m.TRAIN_RATE)),
        _one("Step", "short", per_run(m.TRAIN_STEP)),
        _one("Seconds per step by phase", "s", mean(seconds, _RECENT, f"{_EACH}, phase"), f"{_NAME} {{{{phase}}}}"),
        _one("Learning rate", "short", per_run(m.TRAIN_LEARNING_RATE)),
        _one("Gradient norm", "short", per_run(m.TRAIN_GRADIENT_NORM)),
        _one("Slowest rank, times the median one", "short", per_run(m.TRAIN_STRAGGLER)),
        _one("Temperature factor", "short", per_run(m.TRAIN_LOGIT_SCALE)),
    ]


def data_row() -> list[Panel]:
    """Whether training waits for its data, and what reading them takes."""
    seconds = m.TRAIN_STEP_SECONDS
    waiting = summed_rate(seconds, _RECENT, "_sum", ', phase="data"')
    hits = summed_rate(m.TRAIN_DATA_CACHE, _RECENT, extra=', result="hit"')
    sources = summed_rate(m.TRAIN_SOURCE_SAMPLES, _RECENT, by=f"{_EACH}, source")
    return [
        _one("Waiting for data", "percentunit", f"{waiting} / {summed_rate(seconds, _RECENT, '_sum')}"),
        # Counts, not rates: they are so rare that the first one would go unseen.
        _one("Waits for data too long, since the workers started", "short", counted(m.TRAIN_DATA_STALLS)),
        _one(
            "Replaced samples since the workers started",
            "short",
            counted(m.TRAIN_REPLACED, "reason"),
            f"{_NAME}: {{{{reason}}}}",
        ),
        _one("Read from storage", "Bps", summed_rate(m.TRAIN_DATA_BYTES, _RECENT)),
        Panel(
            "Reads per second",
            "reqps",
            (
                (summed_rate(m.TRAIN_DATA_REQUESTS, _RECENT), _NAME),
                (summed_rate(m.TRAIN_DATA_RETRIES, _RECENT), f"{_NAME} repeated"),
            ),
        ),
        _one("Found in a cache", "percentunit", f"{hits} / ({summed_rate(m.TRAIN_DATA_CACHE, _RECENT)} > 0)"),
        _one("Memory of batches in the making, largest rank", "bytes", per_run(m.TRAIN_DATA_MEMORY)),
        _one("Samples per second by source", "short", sources, f"{_NAME}: {{{{source}}}}"),
    ]


def operator_row() -> list[Panel]:
    """The operator itself; not bound to the chosen runs."""
    reconcile = m.OPERATOR_RECONCILE_SECONDS.name
    slow = f"histogram_quantile(0.99, sum by (le) (rate({reconcile}_bucket{_RECENT})))"
    errors = f"sum by (reason) (rate({m.OPERATOR_RECONCILE_ERRORS.name}{_RECENT}))"
    watches = f"sum by (resource) (rate({m.OPERATOR_WATCH_RESTARTS.name}{_RECENT}))"
    return [
        _one("Operator leads", "short", f"max by (namespace, pod) ({m.OPERATOR_LEADER.name})", "{{namespace}}/{{pod}}"),
        _one("Reconcile errors per second", "short", errors, "{{reason}}"),
        _one("Reconcile seconds (99th percentile)", "s", slow, "p99"),
        _one("Runs in the queue", "short", f"max by (namespace, pod) ({m.OPERATOR_QUEUE_DEPTH.name})", "{{pod}}"),
        _one("Watch restarts per second", "short", watches, "{{resource}}"),
    ]


ROWS = {
    "Runs": runs_row,
    "Recovery": recovery_row,
    "Training": training_row,
    "Data": data_row,
    "Operator": operator_row,
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    return {
        "uid": "clipctl-runs",
        "title": "clipctl runs",
        "tags": ["clipctl"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [_datasource(), _variable("namespace", ""), _variable("run", 'namespace=~"$namespace"')]
        },
        "panels": _laid_out(),
    }


def _laid_out() -> list[dict[str, Any]]:
    """Title and panels of each row, from top to bottom."""
    done: list[dict[str, Any]] = []
    top = 0
    for title, panels in ROWS.items():
        place = {"h": 1, "w": _WIDTH * _COLUMNS, "x": 0, "y": top}
        done.append(
            {"id": len(done) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top += 1
        row = panels()
        for index, panel in enumerate(row):
            done.append(_panel(len(done) + 1, panel, index % _COLUMNS, top + _HEIGHT * (index // _COLUMNS)))
        top += _HEIGHT * -(-len(row) // _COLUMNS)
    return done


def _panel(number: int, panel: Panel, column: int, top: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": _WIDTH * column, "y": top},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _variable(name: str, selector: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({m.RUN_STATE.name}{{{selector}}}, {name})",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
    }


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file is out of date")
    check = parser.parse_args().check
    path = FOLDER / "runs.json"
    text = json.dumps(dashboard(), indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    if check:
        print(f"{path.name} is out of date: run python scripts/render_dashboards.py", file=sys.stderr)
        return 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
