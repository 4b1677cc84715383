"""charts/clip-run: what it renders, that no value can change its shape, and that the pods are restricted."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clipctl.contract import names
from clipctl.contract.spec import RunSpec
from clipctl.render import EmbeddedHelm, render, values_for

CHART = Path(__file__).parents[2] / "charts" / "clip-run"
ENGINE = EmbeddedHelm()


def spec(**changes: Any) -> RunSpec:
    raw: dict[str, Any] = {
        "name": "digits",
        "image": "registry.example/clip@sha256:abc",
        "model": {"name": "ViT-B-32"},
        "data": {"train": "s3://bucket/data"},
        "train": {"global_batch": 64, "steps": 10},
        "checkpoint": {"path": "s3://bucket/runs"},
    }
    return RunSpec.model_validate({**raw, **changes})


FULL = {
    "scale": {
        "nodes": {"min": 2, "max": 4},
        "devices_per_node": 8,
        "resources": {"cpu": "16", "memory": "64Gi", "gpu": 8, "shm": "8Gi"},
        "grace_seconds": 90,
        "queue": "gpus",
        "priority_class": "high",
        "node_selector": {"pool": "a100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists"}],
        "volumes": [{"claim": "data", "mount": "/data"}, {"claim": "out", "mount": "/out", "read_only": False}],
        "image_pull_secrets": ["registry"],
    },
    "retry": {"restarts_in_place": 3, "deadline_seconds": 3600, "ttl_seconds": 60},
    "env": {"AWS_ENDPOINT_URL": "http://s3:9000"},
    "secrets": {"AWS_SECRET_ACCESS_KEY": {"secret": "s3", "key": "secret"}},
    "metrics": {"port": 9500, "pod_monitor": True},
}


def objects(given_spec: RunSpec, namespace: str = "team") -> dict[str, dict[str, Any]]:
    found = render(given_spec, namespace, renderer=ENGINE)
    by_kind = {item["kind"]: item for item in found}
    assert len(by_kind) == len(found)
    return by_kind


def worker(job: dict[str, Any]) -> dict[str, Any]:
    template: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    return template


@pytest.mark.parametrize("changes", [{}, FULL])
def test_core_objects_fit_the_api_schema(changes: dict[str, Any]) -> None:
    found = objects(spec(**changes))
    kinds = {"ServiceAccount", "ConfigMap", "Service", "Deployment", "PyTorchJob"}
    assert set(found) == kinds | ({"PodMonitor"} if changes else set())
    for kind, item in found.items():
        if kind not in ("PyTorchJob", "PodMonitor"):
            kubernetes_validate.validate(item, "1.34", strict=True)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w"}, "spec": worker(found["PyTorchJob"])["spec"]}
    kubernetes_validate.validate(pod, "1.34", strict=True)


def test_elastic_settings() -> None:
    job = objects(spec(**FULL))["PyTorchJob"]
    assert job["metadata"]["name"] == "digits-1"
    elastic = job["spec"]["elasticPolicy"]
    digest = spec(**FULL).digest()
    assert (elastic["minReplicas"], elastic["maxReplicas"], elastic["maxRestarts"]) == (2, 4, 3)
    assert (elastic["rdzvHost"], elastic["rdzvPort"]) == ("digits-rendezvous", 29400)
    assert elastic["rdzvId"] == names.rendezvous_id("digits", digest, 1)
    conf = {entry["key"]: entry["value"] for entry in elastic["rdzvConf"]}
    assert conf == {"last_call_timeout": "2"}
    assert job["spec"]["nprocPerNode"] == "8"
    policy = job["spec"]["runPolicy"]
    assert (policy["cleanPodPolicy"], policy["backoffLimit"], policy["suspend"]) == ("Running", 12, False)
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert set(replicas) == {"Worker"}, "a Master would bring an init container that restricted namespaces refuse"
    assert (replicas["Worker"]["replicas"], replicas["Worker"]["restartPolicy"]) == (4, "OnFailure")


def test_no_restarts_still_gives_a_valid_backoff_limit() -> None:
    job = objects(spec(retry={"restarts_in_place": 0}))["PyTorchJob"]
    assert job["spec"]["runPolicy"]["backoffLimit"] == 1
    assert job["spec"]["elasticPolicy"]["maxRestarts"] == 0


def test_worker_container() -> None:
    template = worker(objects(spec(**FULL))["PyTorchJob"])
    (container,) = template["spec"]["containers"]
    assert container["name"] == "pytorch"
    assert container["command"] == ["python", "-m", "clip_trainer.launch", "/etc/clipctl/run.json"]
    env = {entry["name"]: entry for entry in container["env"]}
    assert len(env) == len(container["env"])
    assert env["CLIPCTL_ATTEMPT"]["value"] == "1"
    assert env["HOME"]["value"] == "/tmp"
    assert env["AWS_ENDPOINT_URL"]["value"] == "http://s3:9000"
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "s3", "key": "secret"}}
    wanted = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": 8}
    assert container["resources"] == {"requests": wanted, "limits": wanted}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["metrics"] == 9500
    assert ports["metrics-7"] == 9507
    assert "readinessProbe" not in container, "pod DNS must not wait for the rendezvous"
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {"/etc/clipctl", "/dev/shm", "/tmp", "/data", "/out"}
    assert (mounts["/data"]["readOnly"], mounts["/out"]["readOnly"]) == (True, False)
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert template["spec"]["terminationGracePeriodSeconds"] == 90
    assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


def test_annotations_and_labels_the_operator_lives_on() -> None:
    given_spec = spec(**FULL)
    found = objects(given_spec)
    job = found["PyTorchJob"]
    annotations = job["metadata"]["annotations"]
    assert annotations[names.ANNOTATION_SPEC_DIGEST] == given_spec.digest()
    assert annotations[names.ANNOTATION_CHECKPOINT_ROOT] == "s3://bucket/runs/digits"
    assert json.loads(annotations[names.ANNOTATION_RETRY]) == given_spec.retry.model_dump(exclude_none=True)
    assert job["metadata"]["labels"][names.LABEL_QUEUE] == "gpus"
    assert worker(job)["metadata"]["labels"][names.LABEL_ATTEMPT] == "1"
    for item in found.values():
        labels = item["metadata"]["labels"]
        assert labels[names.LABEL_RUN] == "digits"
        assert item["metadata"]["namespace"] == "team"
        recommended = {"name", "instance", "version", "component", "part-of", "managed-by"}
        assert {f"app.kubernetes.io/{key}" for key in recommended} <= set(labels)
        assert labels["helm.sh/chart"] == "clip-run-0.1.0"


def test_the_config_is_the_canonical_spec() -> None:
    given_spec = spec(**FULL)
    data = objects(given_spec)["ConfigMap"]["data"]
    assert json.loads(data["run.json"]) == {"spec": given_spec.resolved(), "spec_digest": given_spec.digest()}


def test_the_rendezvous() -> None:
    found = objects(spec(**FULL))
    deployment, service = found["Deployment"], found["Service"]
    assert deployment["metadata"]["name"] == service["metadata"]["name"] == "digits-rendezvous"
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "clip_trainer.coordinator", "--port", "29400"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["publishNotReadyAddresses"] is True
    worker_labels = worker(found["PyTorchJob"])["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= worker_labels.items(), "workers must not answer for the store"


def test_own_or_given_service_account() -> None:
    found = objects(spec())
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert worker(found["PyTorchJob"])["spec"]["serviceAccountName"] == "digits"
    given_account = objects(spec(scale={"service_account": "cloud"}))
    assert "ServiceAccount" not in given_account
    for pod in (worker(given_account["PyTorchJob"]), given_account["Deployment"]["spec"]["template"]):
        assert pod["spec"]["serviceAccountName"] == "cloud"
        assert pod["spec"]["automountServiceAccountToken"] is False


def restricted(pod: dict[str, Any]) -> list[str]:
    """What the Pod Security Standard `restricted` forbids about a pod."""
    problems = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    allowed = {
        "configMap",
        "secret",
        "emptyDir",
        "projected",
        "persistentVolumeClaim",
        "csi",
        "downwardAPI",
        "ephemeral",
    }
    problems += [f"volume {v['name']}" for v in pod.get("volumes", ()) if not (set(v) - {"name"}) <= allowed]
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        context = container.get("securityContext", {})
        rules = {
            "privilege escalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "root": context.get("runAsNonRoot") is True and pod["securityContext"].get("runAsUser", 0) > 0,
            "seccomp": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "writable root": context.get("readOnlyRootFilesystem") is True,
            "privileged": not context.get("privileged"),
            "host port": not any("hostPort" in port for port in container.get("ports", ())),
        }
        problems += [rule for rule, kept in rules.items() if not kept]
    return problems


@pytest.mark.parametrize("changes", [{}, FULL])
def test_pods_are_restricted(changes: dict[str, Any]) -> None:
    found = objects(spec(**changes))
    assert restricted(worker(found["PyTorchJob"])["spec"]) == []
    assert restricted(found["Deployment"]["spec"]["template"]["spec"]) == []


def shape(value: Any) -> Any:
    """An object without its strings."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "text" if isinstance(value, str) else value


INJECTIONS = [
    "x\n  hostNetwork: true",
    '"}]}\n---\nkind: Pod',
    "{{ .Release.Name }}",
    "{{ printf `%s` .Values }}",
    "'\"`$(id)`",
    "a\u2028b\u2029c\u0085d\u007fe\ufefff\uffff",
    "---\nkind: Secret",
    "!!python/object/apply:os.system ['id']",
    "&anchor *alias",
    "# comment",
    "\\u0022\\n",
    "no",
    "0x1f",
    "1e5",
    "",
]


def check_injection(text: str) -> None:
    quiet = spec(env={"A": "plain"})
    loud = spec(env={"A": text})
    rendered = objects(loud)
    (container,) = worker(rendered["PyTorchJob"])["spec"]["containers"]
    assert {"name": "A", "value": text} in container["env"]
    assert shape(rendered) == shape(objects(quiet))
    config = json.loads(rendered["ConfigMap"]["data"]["run.json"])
    assert config["spec"]["env"]["A"] == text


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_value_changes_the_shape(text: str) -> None:
    check_injection(text)


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_random_value_changes_the_shape(text: str) -> None:
    check_injection(text)


@pytest.mark.parametrize("text", INJECTIONS[:9])
def test_paths_and_selectors_are_values_too(text: str) -> None:
    safe = text.replace("\n", " ").replace("\r", " ")
    loud = spec(
        checkpoint={"path": f"s3://bucket/{safe}"} if safe.isprintable() else {"path": "s3://bucket/x"},
        scale={"node_selector": {"pool": text}, "tolerations": [{"key": text or None, "value": text or None}]},
    )
    rendered = objects(loud)
    assert worker(rendered["PyTorchJob"])["spec"]["nodeSelector"] == {"pool": text}
    root = rendered["PyTorchJob"]["metadata"]["annotations"][names.ANNOTATION_CHECKPOINT_ROOT]
    assert root == loud.root


def test_templates_never_evaluate_values() -> None:
    for path in (CHART / "templates").iterdir():
        assert "tpl " not in path.read_text(encoding="utf-8"), path


def test_chart_versions_follow_the_package() -> None:
    from clipctl.version import version

    for chart in ("clip-run", "clip-operator"):
        meta = yaml.safe_load((CHART.parent / chart / "Chart.yaml").read_text(encoding="utf-8"))
        assert meta["version"] == meta["appVersion"] == version()


def test_lint() -> None:
    from helm_python import lint

    report = lint(CHART, values=values_for(spec(**FULL)), strict=True)
    assert report["total_charts_linted"] == 1
    assert [message for message in report["messages"] if message["severity"] > 1] == []
