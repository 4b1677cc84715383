"""kubectl wrapper and the small workloads of the cluster tests."""

import json
import stat
import sys

import pytest

from clip_testkit.cluster import workloads
from clip_testkit.cluster.kubectl import Kubectl, diagnose
from clipctl.contract.errors import UnavailableError

SCRIPT = """#!{python}
import json, pathlib, sys
words = [w for w in sys.argv[1:] if not w.startswith(("--kubeconfig", "--namespace"))]
log = pathlib.Path({log!r})
log.write_text(log.read_text() + json.dumps([sys.argv[1:], "" if words[0] != "apply" else sys.stdin.read()]) + "\\n")
answers = json.loads(pathlib.Path({answers!r}).read_text())
for start, answer in answers.items():
    if " ".join(words).startswith(start):
        print(answer)
        sys.exit(0)
sys.exit("error: not known: " + " ".join(words))
"""


@pytest.fixture
def fake(tmp_path):
    """kubectl replaced by a program that answers by the start of its arguments and records them."""
    log, answers, program = tmp_path / "log", tmp_path / "answers", tmp_path / "kubectl"
    log.touch()
    program.write_text(SCRIPT.format(python=sys.executable, log=str(log), answers=str(answers)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    class Fake:
        kubectl = Kubectl(program, tmp_path / "kubeconfig", "ns")

        def answer(self, replies):
            answers.write_text(json.dumps(replies))
            return self.kubectl

        def calls(self):
            return [json.loads(line) for line in log.read_text().splitlines()]

    return Fake()


def test_commands_name_cluster_and_namespace(fake, tmp_path):
    kubectl = fake.answer({"get pods": '{"items": [{"a": 1}]}'})
    assert kubectl.within("other").items("pods") == [{"a": 1}]
    [[words, _]] = fake.calls()
    assert words[:2] == [f"--kubeconfig={tmp_path}/kubeconfig", "--namespace=other"]
    assert words[-1] == "--output=json"


def test_failure_carries_what_kubectl_said(fake):
    kubectl = fake.answer({})
    with pytest.raises(UnavailableError, match="error: not known: get pod x"):
        kubectl.get("pod", "x")
    assert not kubectl.ok("get", "pod")


def test_objects_are_applied_server_side_in_one_call(fake):
    fake.answer({"apply": ""}).apply({"kind": "A"}, {"kind": "B"})
    [[words, text]] = fake.calls()
    assert "--server-side" in words
    assert [item["kind"] for item in json.loads(text)["items"]] == ["A", "B"]


@pytest.mark.parametrize(("status", "expected"), [("True", True), ("False", False)])
def test_conditions_are_read(fake, status, expected):
    answer = json.dumps({"status": {"conditions": [{"type": "Succeeded", "status": status}]}})
    kubectl = fake.answer({"get pytorchjob j": answer})
    assert kubectl.condition("pytorchjob", "j", "Succeeded") is expected
    assert kubectl.condition("pytorchjob", "j", "Failed") is False


def test_object_without_status_has_no_condition(fake):
    assert fake.answer({"get pytorchjob j": "{}"}).condition("pytorchjob", "j", "Succeeded") is False


def test_ended_pod_gives_phase_and_log(fake):
    kubectl = fake.answer({"get pod p": '{"status": {"phase": "Failed"}}', "logs p": "boom"})
    assert kubectl.finished_pod("p") == ("Failed", "boom\n")


def test_diagnosis_survives_what_is_not_there(fake):
    kubectl = fake.answer({"get pods": '{"items": [{"metadata": {"name": "p"}}]}', "logs p": "its log"})
    text = diagnose(kubectl)
    assert "its log" in text
    assert "not known: describe pods" in text


def restricted_violations(spec):
    """What Pod Security's `restricted` level (Kubernetes documentation, Pod Security Standards) would refuse."""
    found = []
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True:
        found.append("runAsNonRoot")
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccompProfile")
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append("capabilities")
    if any(not set(v) & {"emptyDir", "configMap", "secret", "projected"} for v in spec["volumes"]):
        found.append("volumes")
    return found


def test_pod_meets_the_restricted_level_and_cannot_reach_the_api():
    spec = workloads.pod("p", workloads.container("i", ["true"], env={"A": "b"}))["spec"]
    assert restricted_violations(spec) == []
    assert restricted_violations({"containers": [{}], "volumes": [{"name": "h", "hostPath": {}}]}) != []
    assert spec["automountServiceAccountToken"] is False
    [container] = spec["containers"]
    assert container["env"] == [{"name": "A", "value": "b"}]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in spec["volumes"]}


def test_elastic_job_has_the_settings_that_let_any_worker_die():
    job = workloads.elastic_job("r", 2, workloads.container("i", ["true"], name="pytorch"), "store")
    policy = job["spec"]["elasticPolicy"]
    conf = {entry["key"]: entry["value"] for entry in policy["rdzvConf"]}
    assert conf == {"last_call_timeout": "1"}
    assert (policy["rdzvHost"], policy["rdzvPort"]) == ("store", 29400)
    assert set(job["spec"]["pytorchReplicaSpecs"]) == {"Worker"}
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"
    assert job["spec"]["nprocPerNode"] == "1"
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert restricted_violations(template) == []
    assert [c["name"] for c in template["containers"]] == ["pytorch"]


def test_service_names_pods_before_they_are_ready():
    service = workloads.headless_service("store", {"app": "store"}, 29400)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
