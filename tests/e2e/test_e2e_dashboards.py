"""The dashboard and the alerts of the chart against a real Prometheus that scrapes the real exporters.

Needs no cluster: what Kubernetes' service discovery would find is derived from the rendered charts.
"""

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from clip_operator import webserver
from clip_operator.checkpoints import StorageProgress
from clip_operator.metrics import OperatorMetrics, RunSample
from clip_testkit.cluster.settings import from_environment
from clip_testkit.cluster.shell import wait_until
from clip_testkit.prometheus import find_programs, serving
from clip_testkit.runyaml import spec_with
from clip_testkit.scrapeconfig import Endpoint, scrape_configs
from clip_trainer.train.data_record import DataRecord
from clip_trainer.train.events import EventLog
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.step import StepResult
from clip_trainer.train.wishes import NOTHING
from clipctl.contract import metric_names as m
from clipctl.contract import names
from clipctl.contract.store_local import LocalStore
from clipctl.manifests import parse_manifests
from clipctl.render import EmbeddedHelm, render

CACHE = from_environment().cache  # read before the fixtures of the tests change the environment
CHART = Path(__file__).resolve().parents[2] / "charts" / "clip-operator"
PANELS = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in json.loads((CHART / "dashboards" / "runs.json").read_text())["panels"]
    for target in panel.get("targets", [])
]
IDS = [f"{title}-{number}".replace(" ", "_") for number, (title, _, _) in enumerate(PANELS)]
# Both namespaces have a run of this name: their curves must not be mixed.
RUN = "demo"
SECONDS = {"data": 0.05, "compute": 0.3, "reduce": 0.1, "optimizer": 0.05}
HIT_RATE = 0.75


NO_EVENTS = EventLog(LocalStore("unused"), time.time)


def rendered_operator():
    values = {"metrics": {"serviceMonitor": True, "rules": True}, "replicas": 2}
    return parse_manifests(EmbeddedHelm().render(CHART, values, "clip-operator", "clip-system"))


def the(objects, kind, name=None):
    (found,) = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    return found


class Run:
    """The workers of one run: a real TrainerMetrics behind every metrics port of the rendered pods."""

    def __init__(self, namespace, *overrides):
        spec = spec_with("metrics.pod_monitor=true", *overrides)
        assert spec.name == RUN
        objects = render(spec, namespace, renderer=EmbeddedHelm())
        self.monitor = the(objects, "PodMonitor")
        worker = the(objects, "PyTorchJob")["spec"]["pytorchReplicaSpecs"]["Worker"]
        template = worker["template"]
        (container,) = template["spec"]["containers"]
        ports = [port["name"] for port in container["ports"] if port["name"].startswith("metrics")]
        self.step = 0
        self.ranks = []
        self.records = []
        self.endpoints = []
        for index in range(worker["replicas"]):
            for port in ports:
                metrics = TrainerMetrics()
                # In a pod of its own each rank has its port; here they share the host, as serve() allows for.
                free = metrics.serve(spec.metrics.port, 1)
                assert free
                address = f"127.0.0.1:{free}"
                self.ranks.append(metrics)
                self.records.append(DataRecord(NO_EVENTS, metrics, self.read))
                pod = names.worker_pod_name(RUN, 1, index)
                labels = template["metadata"]["labels"]
                self.endpoints.append(Endpoint(address, namespace, pod, container["name"], port, labels))
        rendezvous = the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        # A pod of the same run that is not a worker; scraping it would fail.
        self.endpoints.append(Endpoint("127.0.0.1:1", namespace, f"{RUN}-rendezvous-0", "store", "metrics", rendezvous))

    def read(self):
        """What the loader of a rank has counted."""
        lookups = 100 * self.step
        return {
            "bytes_read": 1_000_000 * self.step,
            "requests": 4 * self.step,
            "retries": self.step // 4,
            "cache_hits": int(HIT_RATE * lookups),
            "cache_misses": lookups - int(HIT_RATE * lookups),
            "memory_bytes": 1 << 20,
            "stalls": self.step // 10,
        }

    def advance(self):
        """One step on every rank; a checkpoint every second step; a broken sample now and then."""
        self.step += 1
        result = StepResult(
            loss=4 / self.step,
            losses={"contrastive_loss": 4 / self.step},
            gradient_norm=0.25,
            digest=7,
            replaced=0,
            agreed=NOTHING,
            skipped=None,
            seconds=SECONDS,
        )
        for rank, metrics in enumerate(self.ranks):
            metrics.observe_step(result, step=self.step, samples=32, rate=128.0, learning_rate=1e-3)
            self.records[rank].step(self.step, SECONDS["data"], sum(SECONDS.values()))
            metrics[m.TRAIN_SOURCE_SAMPLES].labels("s3://clip/small").inc(32)
            metrics[m.TRAIN_WORLD_SIZE].set(len(self.ranks))
            metrics[m.TRAIN_TOTAL_STEPS].set(10_000)
            metrics[m.TRAIN_GOODPUT].set(0.9)
            metrics[m.TRAIN_STRAGGLER].set(1.1)
            metrics[m.TRAIN_LOGIT_SCALE].set(14.3)
            if self.step % 2 == 0:
                metrics[m.TRAIN_CHECKPOINT_SECONDS].observe(1.5)
                metrics[m.TRAIN_CHECKPOINT_STALL].observe(0.02)
                metrics[m.TRAIN_RECOVERIES].labels("regroup").inc()
                metrics[m.TRAIN_RECOVERY_SECONDS].labels("regroup").observe(0.5)
                metrics[m.TRAIN_RECOVERY_PHASE].labels("form").set(0.1)
                metrics[m.TRAIN_CHECKPOINT_STEP].set(self.step)
            if self.step % 5 == 0 and rank == 0:
                metrics[m.TRAIN_REPLACED].labels("undecodable image").inc()


class Operator:
    """Two replicas of the operator; only the leader knows of runs."""

    def __init__(self):
        objects = rendered_operator()
        self.monitor = the(objects, "ServiceMonitor")
        self.rules = the(objects, "PrometheusRule")["spec"]
        service = the(objects, "Service")
        template = the(objects, "Deployment")["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        (port,) = service["spec"]["ports"]
        (container,) = template["spec"]["containers"]
        assert port["targetPort"] in [found["name"] for found in container["ports"]]
        self.replicas = [OperatorMetrics(), OperatorMetrics()]
        self.servers = [webserver.serve(0, one.registry, lambda: "", "127.0.0.1") for one in self.replicas]
        self.endpoints = [
            Endpoint(
                f"127.0.0.1:{server.server_port}",
                "clip-system",
                f"clip-operator-{number}",
                container["name"],
                port["name"],
                labels,
                service["metadata"]["name"],
                service["metadata"]["labels"],
            )
            for number, server in enumerate(self.servers)
        ]

    def advance(self, step):
        """What the leader does while the runs train."""
        leader = self.replicas[0]
        leader.leader.set(1)
        leader.queue_depth.set(2)
        for namespace in ("team", "other"):
            leader.runs.put((namespace, RUN), self.sample(namespace, step))
        leader.reconcile_seconds.observe(0.02)
        leader.reconcile_errors.labels("Conflict").inc()
        leader.watch_restarts.labels("pods").inc()

    @staticmethod
    def sample(namespace, step):
        # Checkpoints of `other` are on a PVC, which the operator cannot see.
        visible = StorageProgress(step // 2 * 2, 0.8, 3600.0) if namespace == "team" else StorageProgress()
        return RunSample(
            state=names.STATE_RUNNING,
            attempt=3,
            causes=(names.CAUSE_HANG, names.CAUSE_PREEMPTION),
            workers=2,
            workers_wanted=2,
            pod_restarts=1,
            started_at=1_700_000_000.0,
            verified_step=0,
            rejected=1,
            storage=visible,
        )

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def programs():
    return find_programs(CACHE)


@pytest.fixture(scope="module")
def operator():
    made = Operator()
    yield made
    made.close()


@pytest.fixture(scope="module")
def runs():
    """Four ranks: two pods of one device, and one pod of two devices."""
    return [
        Run("team", "scale.nodes={min: 1, max: 2}"),
        Run("other", "scale.devices_per_node=2", "scale.resources.gpu=2"),
    ]


@pytest.fixture(scope="module")
def prometheus(programs, operator, runs, tmp_path_factory):
    """A server that has scraped a while of training of both runs."""
    everything = [endpoint for source in (operator, *runs) for endpoint in source.endpoints]
    configs = [config for source in (operator, *runs) for config in scrape_configs(source.monitor, everything)]
    with serving(programs, tmp_path_factory.mktemp("prometheus"), configs, operator.rules) as server:

        def scraped():
            for run in runs:
                run.advance()
            operator.advance(runs[0].step)
            counts = server.query("count_over_time(up[5m])")
            return len(counts) == 6 and min(count.value for count in counts) >= 6

        wait_until(scraped, "six scrapes of six exporters", seconds=120, interval=0.5)
        moved = time.time()
        wait_until(
            lambda: all(seen.value > moved for seen in server.query("timestamp(up)")),
            "a scrape of the last values",
            seconds=60,
        )
        yield server


def substituted(expression, namespace="(team|other)", run="(demo|gone)"):
    """The expression as Grafana sends it when several values of each variable are chosen."""
    for name, value in (("__rate_interval", "1m"), ("namespace", namespace), ("run", run)):
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


def value(server, title, number=0, **labels):
    """The value that a panel shows for one series."""
    expressions = [expression for name, expression, _ in PANELS if name == title]
    found = [s.value for s in server.query(substituted(expressions[number])) if labels.items() <= s.labels.items()]
    assert len(found) == 1, (title, labels, found)
    return found[0]


def test_the_monitors_select_the_exporters_and_name_them(prometheus):
    targets = prometheus.targets()
    assert {target["health"] for target in targets} == {"up"}, targets
    wanted = ("namespace", "run", "pod", "endpoint", "job")
    assert sorted(tuple(target["labels"].get(name, "") for name in wanted) for target in targets) == [
        ("clip-system", "", "clip-operator-0", "metrics", "clip-operator"),
        ("clip-system", "", "clip-operator-1", "metrics", "clip-operator"),
        ("other", "demo", "demo-1-worker-0", "metrics", "other/demo"),
        ("other", "demo", "demo-1-worker-0", "metrics-1", "other/demo"),
        ("team", "demo", "demo-1-worker-0", "metrics", "team/demo"),
        ("team", "demo", "demo-1-worker-1", "metrics", "team/demo"),
    ]


def test_a_run_keeps_its_namespace_though_the_operator_lives_elsewhere(prometheus):
    found = prometheus.query("clip_run_state")
    assert {(s.labels["namespace"], s.labels["pod"]) for s in found} == {
        ("team", "clip-operator-0"),
        ("other", "clip-operator-0"),
    }
    assert all("exported_namespace" not in s.labels for s in found)


@pytest.mark.parametrize(("title", "expression", "legend"), PANELS, ids=IDS)
def test_every_query_of_the_dashboard_finds_series(prometheus, title, expression, legend):
    found = prometheus.query(substituted(expression))
    assert found, title
    for series in found:
        assert series.value == series.value, f"{title}: not a number"
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert series.labels.get(label), f"{title}: the legend {legend} asks for a label that is not there"


@pytest.mark.parametrize(("title", "expression", "legend"), PANELS, ids=IDS)
def test_a_query_with_a_misspelt_metric_finds_none(prometheus, title, expression, legend):
    broken = re.sub(r"\bclip_(\w+)", r"clip_\1x", substituted(expression))
    assert prometheus.query(broken) == [], title


@pytest.mark.parametrize(("title", "expression", "legend"), PANELS, ids=IDS)
def test_variables_choose_namespace_and_run(prometheus, title, expression, legend):
    of_runs = "$namespace" in expression
    assert of_runs == ("clip_operator_" not in expression)
    if of_runs:
        chosen = prometheus.query(substituted(expression, "team", "demo"))
        assert {(s.labels["namespace"], s.labels["run"]) for s in chosen} == {("team", "demo")}
        assert prometheus.query(substituted(expression, "team", "gone")) == []


def test_variables_have_values(prometheus):
    dashboard = json.loads((CHART / "dashboards" / "runs.json").read_text())
    values = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
            values[variable["name"]] = prometheus.label_values(label, substituted(selector))
    assert values == {"namespace": ["other", "team"], "run": ["demo"]}


def test_panels_show_what_the_exporters_say(prometheus, runs):
    team, other = {"namespace": "team"}, {"namespace": "other"}
    assert value(prometheus, "State", **team, state="Running") == 1
    assert value(prometheus, "Goodput", **team) == 0.8
    assert value(prometheus, "Goodput", **other) == 0.9  # from the trainer
    assert value(prometheus, "Failed attempts by cause", **team, cause="hang") == 1
    assert value(prometheus, "Ranks (world size)", **team) == 2
    assert value(prometheus, "Checkpoints (step)", 0, **team) == runs[0].step // 2 * 2
    assert value(prometheus, "Steps since the last checkpoint", **team) == runs[0].step % 2
    assert value(prometheus, "Training waits for a checkpoint (mean of 1 h)", **team) == pytest.approx(0.02)
    for phase, seconds in SECONDS.items():
        assert value(prometheus, "Seconds per step by phase", **team, phase=phase) == pytest.approx(seconds)
    assert value(prometheus, "Waiting for data", **team) == pytest.approx(0.1)
    assert value(prometheus, "Replaced samples since the workers started", **team) == runs[0].step // 5
    assert value(prometheus, "Found in a cache", **team) == pytest.approx(HIT_RATE, rel=0.05)
    assert value(prometheus, "Memory of batches in the making, largest rank", **team) == 1 << 20
    assert value(prometheus, "Waits for data too long, since the workers started", **team) == 2 * (runs[0].step // 10)
    assert value(prometheus, "Operator leads", pod="clip-operator-0") == 1
    assert value(prometheus, "Operator leads", pod="clip-operator-1") == 0


def test_every_metric_of_the_contract_is_scraped(prometheus):
    scraped = set(prometheus.label_values("__name__", '{__name__=~"clip_.+"}'))
    for metric in (*m.TRAINER_METRICS, *m.OPERATOR_METRICS):
        assert (f"{metric.name}_bucket" if metric.kind == "histogram" else metric.name) in scraped


def test_alerts_are_evaluated_without_errors_and_the_right_one_fires(prometheus, operator):
    def evaluated():
        return all(rule["health"] == "ok" for rule in prometheus.rules())

    wait_until(evaluated, "an evaluation of all rules", seconds=60, interval=0.5)
    rules = {rule["name"]: rule for rule in prometheus.rules()}
    assert set(rules) == {rule["alert"] for group in operator.rules["groups"] for rule in group["rules"]}
    firing = {name for name, rule in rules.items() if rule["state"] == "firing"}
    assert firing == {"ClipCheckpointsDamaged"}  # the sample says that one checkpoint was passed over


def test_names_and_help_pass_promtools_lint(programs, prometheus, operator, runs):
    for endpoint in (operator.endpoints[0], runs[0].endpoints[0]):
        with urllib.request.urlopen(f"http://{endpoint.address}/metrics") as answer:
            exported = answer.read()
        assert b"clip_" in exported
        assert promtool(programs, "check", "metrics", stdin=exported) == 0
    assert promtool(programs, "check", "metrics", stdin=b"# TYPE badName counter\nbadName 1\n") != 0


def promtool(programs, *words, stdin=b""):
    done = subprocess.run([programs.promtool, *words], input=stdin, capture_output=True, timeout=120)
    print(done.stdout.decode(), done.stderr.decode())
    return done.returncode


# --- alerts, on series made by hand: `promtool test rules` ---

LABELS = 'namespace="team", run="demo", pod="o-0"'


def series(metric, values, extra=""):
    return {"series": f"{metric}{{{LABELS}{extra}}}", "values": values}


def alert(severity="warning", summary="", description=None, **labels):
    annotations = {"summary": summary} | ({"description": description} if description else {})
    return {"exp_labels": {"severity": severity, **labels}, "exp_annotations": annotations}


DEMO = {"namespace": "team", "run": "demo"}
RUNNING = series("clip_run_state", "1x400", ', state="Running"')
GOODPUT = series("clip_run_goodput_ratio", "0.9x400")
STEP = "clip_run_last_committed_step"
FAILED = alert(
    **DEMO,
    pod="o-0",
    state="Failed",
    summary="Run team/demo has failed",
    description="See `clipctl status demo` for the reason.",
)
KEEPS_FAILING = alert(**DEMO, summary="Run team/demo needed more than three new attempts in an hour")
NO_CHECKPOINT = alert(**DEMO, pod="o-0", state="Running", summary="Run team/demo has committed no checkpoint for hours")
WAITS = alert(
    **DEMO,
    summary="Run team/demo spends a fifth of its time waiting for data",
    description='See the row "Data" of the dashboard, and `clipctl data bench` for what would help.',
)
DAMAGED = alert(**DEMO, pod="o-0", summary="Run team/demo passed over damaged checkpoints")
NO_LEADER = alert("critical", "No clip-operator replica leads")
LEADER = 'clip_operator_leader{namespace="clip-system", pod="%s"}'


def attempts(**causes):
    return [series("clip_run_attempts_total", values, f', cause="{cause}"') for cause, values in causes.items()]


def step_seconds(data, compute):
    """Seconds by minute that steps wait for data, and that they compute."""
    return [
        series("clip_train_step_seconds_sum", f"0+{seconds}x200", f', phase="{phase}"')
        for phase, seconds in (("data", data), ("compute", compute))
    ]


# Name, what is told apart, series by minute, when to look, what must fire.
CASES = [
    ("ClipRunFailed", "failed", [series("clip_run_state", "0x5 1x5", ', state="Failed"')], "8m", FAILED),
    ("ClipRunFailed", "running", [RUNNING, series("clip_run_state", "0x60", ', state="Failed"')], "30m", None),
    ("ClipRunFailed", "failed and deleted", [series("clip_run_state", "1x5 stale", ', state="Failed"')], "30m", None),
    ("ClipRunKeepsFailing", "four", attempts(hang="0x5 1x5 2x60", data="0x20 1x5 2x60"), "40m", KEEPS_FAILING),
    ("ClipRunKeepsFailing", "three", attempts(hang="0x80 1x5 3x100"), "119m30s", None),
    ("ClipRunKeepsFailing", "four long ago", attempts(hang="4x200"), "150m", None),
    ("ClipRunDoesNotCheckpoint", "stuck", [RUNNING, GOODPUT, series(STEP, "100x400")], "240m", NO_CHECKPOINT),
    ("ClipRunDoesNotCheckpoint", "stopped growing", [RUNNING, GOODPUT, series(STEP, "0+1x60 60x340")], "300m",
     NO_CHECKPOINT),
    ("ClipRunDoesNotCheckpoint", "never any", [RUNNING, GOODPUT], "130m", NO_CHECKPOINT),
    ("ClipRunDoesNotCheckpoint", "never any yet", [RUNNING, GOODPUT], "100m", None),
    ("ClipRunDoesNotCheckpoint", "grows", [RUNNING, GOODPUT, series(STEP, "0x50 1x50 2x50 3x50 4x50 5x150")], "290m",
     None),
    ("ClipRunDoesNotCheckpoint", "first after 110 minutes", [RUNNING, GOODPUT, series(STEP, "_x110 100x290")], "170m",
     None),
    ("ClipRunDoesNotCheckpoint", "not running", [GOODPUT, series(STEP, "100x400")], "300m", None),
    ("ClipRunDoesNotCheckpoint", "storage not visible", [RUNNING], "300m", None),
    ("ClipRunWaitsForData", "a quarter", step_seconds(15, 45), "60m", WAITS),
    ("ClipRunWaitsForData", "a quarter, but not for long", step_seconds(15, 45), "20m", None),
    ("ClipRunWaitsForData", "a tenth", step_seconds(6, 54), "60m", None),
    ("ClipCheckpointsDamaged", "one", [series("clip_run_rejected_checkpoints", "0x5 1x5")], "8m", DAMAGED),
    ("ClipCheckpointsDamaged", "none", [series("clip_run_rejected_checkpoints", "0x9")], "8m", None),
    ("ClipOperatorWithoutLeader", "nobody leads", [{"series": LEADER % n, "values": "0x20"} for n in "ab"], "10m",
     {**NO_LEADER, "exp_labels": {"severity": "critical", "namespace": "clip-system"}}),
    ("ClipOperatorWithoutLeader", "all gone", [{"series": LEADER % "a", "values": "1x5 stale"}], "20m", NO_LEADER),
    ("ClipOperatorWithoutLeader", "one of two leads",
     [{"series": LEADER % "a", "values": "0x20"}, {"series": LEADER % "b", "values": "1x20"}], "10m", None),
    ("ClipOperatorWithoutLeader", "change of leader",
     [{"series": LEADER % "a", "values": "1x5 0x20"}, {"series": LEADER % "b", "values": "0x6 1x20"}], "20m", None),
]  # fmt: skip


def rule_test(folder, rules, name, given, when, expected):
    """A file for `promtool test rules`."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    check = {"eval_time": when, "alertname": name, "exp_alerts": [expected] if expected else []}
    test = {"interval": "1m", "input_series": given, "alert_rule_test": [check]}
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}))
    return str(path)


@pytest.fixture(scope="module")
def rules():
    return the(rendered_operator(), "PrometheusRule")["spec"]


def test_the_rules_are_valid(programs, rules, tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    assert promtool(programs, "check", "rules", str(tmp_path / "rules.yaml")) == 0
    assert promtool(programs, "check", "rules", "--lint-fatal", str(tmp_path / "rules.yaml")) == 0
    broken = {"groups": [{"name": "x", "rules": [{"alert": "X", "expr": "sum("}]}]}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    assert promtool(programs, "check", "rules", str(tmp_path / "broken.yaml")) != 0


@pytest.mark.parametrize(
    ("name", "situation", "given", "when", "expected"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
def test_alerts_fire_when_they_should(programs, rules, tmp_path, name, situation, given, when, expected):
    assert promtool(programs, "test", "rules", rule_test(tmp_path, rules, name, given, when, expected)) == 0
    opposite = None if expected else alert(**DEMO, summary="x")
    assert promtool(programs, "test", "rules", rule_test(tmp_path, rules, name, given, when, opposite)) != 0


def test_every_alert_is_seen_firing_and_silent(rules):
    every = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert {case[0] for case in CASES if case[-1]} == every
    assert {case[0] for case in CASES if not case[-1]} == every
