"""`kubectl apply` of manifests/ is enough: no CLI, no Helm."""

from pathlib import Path

import yaml

from clip_testkit.lab import SECRET
from clipctl.contract.commits import list_checkpoints, verify

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"


def adapted(name, lab):
    """A manifest with what any user must fill in (image, bucket, endpoint, Secret), and shortened to fit two cores."""
    text = (MANIFESTS / name).read_text()
    for shipped, ours in (
        ("clipctl:0.1.0", lab.image),
        ("clip-system", lab.kubectl.namespace),
        ("s3://clip/", f"s3://{lab.bucket}/"),
        ("http://s3.storage.svc:9000", lab.s3.in_cluster),
        ("clip-s3", SECRET),
        ('"epochs":20.0', '"epochs":0.5'),
        ("ViT-small-8-64", "ViT-tiny-8-32"),
    ):
        text = text.replace(shipped, ours)
    objects = [item for item in yaml.safe_load_all(text) if item["kind"] != "Namespace"]
    for item in objects:
        if item["kind"] == "PyTorchJob":
            (container,) = item["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
            container["resources"] = {"requests": {"cpu": "400m", "memory": "2Gi"}}
    return objects


def test_apply_trains_without_the_cli(bare_lab):
    lab = bare_lab
    lab.kubectl.apply(*adapted("operator.yaml", lab))
    lab.kubectl.run("set", "env", "deployment/clip-operator", f"--from=secret/{SECRET}")
    lab.kubectl.run("set", "env", "deployment/clip-operator", f"AWS_ENDPOINT_URL={lab.s3.in_cluster}")
    lab.kubectl.run("rollout", "status", "deployment/clip-operator", "--timeout=120s", timeout=130)
    lab.kubectl.apply(*adapted("run-emoji-k8s.yaml", lab))

    def ended():
        return any(lab.kubectl.condition("pytorchjob", "emoji-1", end) for end in ("Succeeded", "Failed"))

    lab.kubectl.wait("the end of the job", ended, seconds=420)

    assert lab.kubectl.condition("pytorchjob", "emoji-1", "Succeeded")
    store = lab.store("emoji")
    verify(store, list_checkpoints(store)[-1])
    assert store.read("export/open_clip_config.json")
    annotations = lab.kubectl.get("pytorchjob", "emoji-1")["metadata"]["annotations"]
    lab.kubectl.wait("the operator's verdict", lambda: finished(lab), seconds=60)
    assert annotations["clipctl.dev/checkpoint-root"] == lab.root("emoji")


def finished(lab):
    annotations = lab.kubectl.get("pytorchjob", "emoji-1")["metadata"]["annotations"]
    return annotations.get("clipctl.dev/state") == "Succeeded"
