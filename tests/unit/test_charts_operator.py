"""charts/clip-operator and manifests/: rights exactly as used, restricted pod, dashboards of real metrics, drift."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from clip_operator import api as k8s
from clipctl.contract import metric_names
from clipctl.manifests import parse_manifests
from clipctl.render import EmbeddedHelm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "clip-operator"
CORE = {"Deployment", "ServiceAccount", "Service", "ConfigMap", "Role", "RoleBinding", "ClusterRole"}


def rendered(values: dict[str, Any] | None = None, release: str = "clip-operator") -> list[dict[str, Any]]:
    return parse_manifests(EmbeddedHelm().render(CHART, values or {}, release, "clip-system"))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] == kind]


ALL = {
    "watchNamespaces": ["team-a", "team-b"],
    "replicas": 2,
    "env": {"AWS_ENDPOINT_URL": "http://s3:9000", "N": 3},
    "envFrom": [{"secretRef": {"name": "s3"}}],
    "imagePullSecrets": ["registry"],
    "metrics": {"serviceMonitor": True, "rules": True},
    "podDisruptionBudget": {"enabled": True},
    "tolerations": [{"operator": "Exists"}],
    "nodeSelector": {"a": "b"},
    "priorityClassName": "high",
    "podAnnotations": {"x": "{{ .Release.Name }}"},
}


@pytest.mark.parametrize("values", [{}, ALL, {"clusterWide": True}])
def test_objects_fit_the_api_schema(values: dict[str, Any]) -> None:
    objects = rendered(values)
    assert CORE - {"ClusterRole"} <= {item["kind"] for item in objects}
    for item in objects:
        if not item["apiVersion"].startswith("monitoring.coreos.com"):
            kubernetes_validate.validate(item, "1.34", strict=True)
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "clipctl"


def test_the_pod_is_restricted_and_told_everything() -> None:
    (deployment,) = of_kind(rendered(ALL), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert context["seccompProfile"] == pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "--namespaces=team-a,team-b" in container["args"]
    assert {"name": "N", "value": "3"} in container["env"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {"x": "{{ .Release.Name }}"}
    from clip_operator.settings import parse

    assert parse(container["args"], {"POD_NAMESPACE": "clip-system"}).namespaces == ("team-a", "team-b")


def test_image_by_tag_or_digest() -> None:
    def image(values: dict[str, Any]) -> str:
        (deployment,) = of_kind(rendered({"image": values}), "Deployment")
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    digest = "sha256:" + "0" * 64
    assert image({}) == "clipctl:0.1.0"
    assert image({"repository": "r/x", "tag": "2"}) == "r/x:2"
    assert image({"repository": "r/x", "tag": "2", "digest": digest}) == f"r/x@{digest}"


def rights(objects: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Verb, group and resource of every rule."""
    roles = [item for item in objects if item["kind"] in ("Role", "ClusterRole")]
    return {
        (verb, group, resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used() -> set[tuple[str, str, str]]:
    """Verb, group and resource of every call in the operator's source, by name of the constant it uses."""
    calls = re.compile(r"_api\.(list|get|create|patch|delete|replace)\(\s*(?:k8s\.)?([A-Z_]+),")
    verbs = {"replace": "update"}
    found = set()
    for path in (ROOT / "operator" / "clip_operator").rglob("*.py"):
        for verb, constant in calls.findall(path.read_text(encoding="utf-8")):
            resource = getattr(k8s, constant)
            found.add((verbs.get(verb, verb), resource.group, resource.plural))
    # Informers, and the objects that are deleted by one helper which takes the resource as an argument.
    for resource in (k8s.PYTORCHJOBS, k8s.PODS):
        found |= {(verb, resource.group, resource.plural) for verb in ("list", "watch")}
    for resource in (k8s.POD_MONITORS, k8s.DEPLOYMENTS, k8s.SERVICES, k8s.CONFIGMAPS, k8s.SERVICE_ACCOUNTS):
        found |= {(verb, resource.group, resource.plural) for verb in ("get", "delete")}
    return found


@pytest.mark.parametrize("values", [{}, {"clusterWide": True}, {"watchNamespaces": ["a", "b"]}])
def test_rights_are_exactly_what_the_code_uses(values: dict[str, Any]) -> None:
    assert rights(rendered(values)) == used()


def test_rights_never_touch_secrets_or_wildcards() -> None:
    for verb, group, resource in rights(rendered({"clusterWide": True})):
        assert "*" not in (verb, group, resource)
        assert resource not in ("secrets", "pods/exec", "roles", "rolebindings", "clusterroles")


def test_rights_stay_in_their_namespaces() -> None:
    objects = rendered({"watchNamespaces": ["team-a", "team-b"], "rbac": {"readNodes": False}})
    assert of_kind(objects, "ClusterRole") == []
    bound = {item["metadata"]["namespace"] for item in of_kind(objects, "RoleBinding")}
    assert bound == {"team-a", "team-b", "clip-system"}
    (deployment,) = of_kind(objects, "Deployment")
    assert "--no-nodes" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    only_nodes = of_kind(rendered(), "ClusterRole")
    assert [role["rules"] for role in only_nodes] == [[{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]]


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"image": {"name": "x"}},
        {"image": {"repository": "a b"}},
        {"watchNamespaces": ["a,b"]},
        {"logLevel": "info\n- --evil"},
        {"workers": 0},
        {"env": {"A-B": "x"}},
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    from clipctl.contract.errors import ClipError

    with pytest.raises(ClipError):
        rendered(values)


def test_every_value_is_documented() -> None:
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    values = yaml.safe_load("\n".join(lines))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(values) <= set(schema["properties"])
    documented = sum(line.lstrip().startswith("# --") for line in lines)
    nested = {"image", "rbac", "serviceAccount", "metrics", "dashboards", "podDisruptionBudget"}
    fields = [key for key in values if key not in nested] + [key for name in nested for key in values[name]]
    described = sum(
        1
        for index, line in enumerate(lines)
        if re.match(r"^(  )?[A-Za-z]+:", line) and lines[index - 1].lstrip().startswith("#")
    )
    assert described >= len(fields) - 1  # resources is explained in a plain comment
    assert documented >= len(fields) - 1


def test_dashboards_ask_only_for_metrics_that_exist() -> None:
    (config,) = [item for item in of_kind(rendered(), "ConfigMap") if "dashboards" in item["metadata"]["name"]]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    known = {metric.name for metric in (*metric_names.TRAINER_METRICS, *metric_names.OPERATOR_METRICS)}
    histograms = {
        m.name for m in (*metric_names.TRAINER_METRICS, *metric_names.OPERATOR_METRICS) if m.kind == "histogram"
    }
    known |= {f"{name}_{suffix}" for name in histograms for suffix in ("sum", "count", "bucket")}
    for text in config["data"].values():
        panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
        expressions = [target["expr"] for panel in panels for target in panel["targets"]]
        assert len(expressions) > 15
        for expression in expressions:
            found = re.findall(r"\bclip_\w+", expression)
            assert found, expression
            assert set(found) <= known, expression


def test_alerts_ask_only_for_metrics_that_exist() -> None:
    (rule,) = of_kind(rendered(ALL), "PrometheusRule")
    every = (*metric_names.OPERATOR_METRICS, *metric_names.TRAINER_METRICS)
    known = {f"{metric.name}_sum" if metric.kind == "histogram" else metric.name for metric in every}
    rules = [rule for group in rule["spec"]["groups"] for rule in group["rules"]]
    assert len(rules) == 6
    for entry in rules:
        assert set(re.findall(r"\bclip_\w+", entry["expr"])) <= known
        assert "{{ $labels" in json.dumps(entry) or entry["alert"] == "ClipOperatorWithoutLeader"


def test_lint() -> None:
    from helm_python import lint

    report = lint(CHART, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("script", ["render_manifests.py", "render_dashboards.py"])
def test_rendered_files_are_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_manifests_apply_without_helm() -> None:
    documents = parse_manifests((ROOT / "manifests" / "operator.yaml").read_text(encoding="utf-8"))
    assert documents[0] == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "clip-system"}}
    assert {item["kind"] for item in documents} >= CORE
