"""Write the Grafana dashboards of charts/clip-operator; `--check` only compares and exits with 1 on a difference.

Panels are built from the metric table of the contract, so that a query cannot name a metric that does not exist.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clipctl.contract import metric_names as m
from clipctl.contract.metric_names import Metric

FOLDER = Path(__file__).resolve().parent.parent / "charts" / "clip-operator" / "dashboards"
_RUN = 'namespace=~"$namespace", run=~"$run"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def selected(metric: Metric, extra: str = "") -> str:
    """The series of a metric for the chosen namespace and run."""
    return f"{metric.name}{{{_RUN}{', ' + extra if extra else ''}}}"


def rate(metric: Metric, suffix: str = "", extra: str = "") -> str:
    """Per-second rate of a counter (or of a histogram's `_sum` and `_count`)."""
    return f"rate({metric.name}{suffix}{{{_RUN}{', ' + extra if extra else ''}}}[$__rate_interval])"


def panels() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Title, unit, and queries with legends, row by row."""
    phase_mean = f"sum by (run, phase) ({rate(m.TRAIN_STEP_SECONDS, '_sum')})"
    phase_count = f"sum by (run, phase) ({rate(m.TRAIN_STEP_SECONDS, '_count')})"
    return [
        ("State", "short", [(f"{selected(m.RUN_STATE)} == 1", "{{run}}: {{state}}")]),
        ("Attempt", "short", [(selected(m.RUN_ATTEMPT), "{{run}}")]),
        ("Failed attempts by cause", "short", [(f"{selected(m.RUN_ATTEMPTS)} > 0", "{{run}}: {{cause}}")]),
        ("Goodput", "percentunit", [(selected(m.RUN_GOODPUT), "{{run}}")]),
        ("Time to the end", "s", [(selected(m.RUN_ETA), "{{run}}")]),
        (
            "Workers",
            "short",
            [(selected(m.RUN_WORKERS), "{{run}} running"), (selected(m.RUN_WORKERS_WANTED), "{{run}} wanted")],
        ),
        ("Container restarts", "short", [(selected(m.RUN_POD_RESTARTS), "{{run}}")]),
        (
            "Checkpoints (step)",
            "short",
            [
                (selected(m.RUN_COMMITTED_STEP), "{{run}} committed"),
                (selected(m.RUN_VERIFIED_STEP), "{{run}} verified at resume"),
            ],
        ),
        ("Damaged checkpoints passed over", "short", [(selected(m.RUN_REJECTED), "{{run}}")]),
        ("Age of the run", "s", [(f"time() - {selected(m.RUN_AGE)}", "{{run}}")]),
        ("Loss", "short", [(f"max by (run) ({selected(m.TRAIN_LOSS)})", "{{run}}")]),
        ("Samples per second", "short", [(f"max by (run) ({selected(m.TRAIN_RATE)})", "{{run}}")]),
        ("Step", "short", [(f"max by (run) ({selected(m.TRAIN_STEP)})", "{{run}}")]),
        ("Seconds per step by phase", "s", [(f"{phase_mean} / {phase_count}", "{{run}} {{phase}}")]),
        ("Ranks", "short", [(f"max by (run) ({selected(m.TRAIN_WORLD_SIZE)})", "{{run}}")]),
        ("Learning rate", "short", [(f"max by (run) ({selected(m.TRAIN_LEARNING_RATE)})", "{{run}}")]),
        ("Replaced samples per second", "short", [(f"sum by (run) ({rate(m.TRAIN_REPLACED)})", "{{run}}")]),
        ("Operator leads", "short", [(m.OPERATOR_LEADER.name, "{{pod}}")]),
        ("Operator errors", "short", [(f"rate({m.OPERATOR_RECONCILE_ERRORS.name}[$__rate_interval])", "{{reason}}")]),
    ]


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
        "panels": [_panel(index, *panel) for index, panel in enumerate(panels())],
    }


def _panel(index: int, title: str, unit: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"h": 8, "w": 8, "x": 8 * (index % 3), "y": 8 * (index // 3)},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(queries)
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
