"""Fixtures of the tests that run on a real cluster: ours, or the one that KUBECONFIG names.

Ours is brought up once and left up, so that the next run starts at once; `python -m clip_testkit.cluster down` ends it.
With KUBECONFIG set, say what is there:

- `CLIPCTL_E2E_IMAGE`: an image of the project that the cluster can pull;
- `CLIPCTL_E2E_S3` and `CLIPCTL_E2E_S3_HOST`: an S3 endpoint as pods and as this machine reach it;
- `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`: its credentials.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from clip_testkit.cluster import lifecycle, projectimage
from clip_testkit.cluster import s3 as cluster_s3
from clip_testkit.cluster.kubectl import Kubectl, diagnose
from clip_testkit.cluster.settings import from_environment
from clip_testkit.cluster.workloads import RESTRICTED
from clip_testkit.lab import SECRET, Lab
from clipctl.manifests import is_hook, parse_manifests
from clipctl.render import choose_renderer
from clipctl.specfile import load_spec

# Read before any fixture changes the environment.
SETTINGS = from_environment()
FOREIGN = lifecycle.external_kubeconfig(SETTINGS)
SESSION = uuid.uuid4().hex[:5]
NUMBERS = itertools.count(1)


def pytest_collection_modifyitems(items):
    """Everything in this directory is an e2e test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))


def required(name):
    value = os.environ.get(name)
    if not value:
        pytest.fail(
            f"KUBECONFIG names your own cluster, so {name} must be set; see tests/e2e/conftest.py.", pytrace=False
        )
    return value


@pytest.fixture(scope="session")
def cluster():
    """Path of the kubeconfig of a cluster that serves PyTorchJob."""
    return lifecycle.up(SETTINGS)


@pytest.fixture(scope="session")
def image(cluster):
    """Name of the project's image, built from the working tree and loaded into the cluster."""
    if FOREIGN is not None:
        return required("CLIPCTL_E2E_IMAGE")
    return projectimage.build_and_load(SETTINGS, os.environ.get("CLIPCTL_E2E_TORCH", "cpu-stub"))


@pytest.fixture(scope="session")
def s3(cluster):
    """The S3 endpoint: addresses for pods and for this machine, and credentials."""
    if FOREIGN is None:
        return cluster_s3.endpoint(SETTINGS)
    return cluster_s3.S3Endpoint(
        in_cluster=required("CLIPCTL_E2E_S3"),
        on_host=required("CLIPCTL_E2E_S3_HOST"),
        access_key=required("AWS_ACCESS_KEY_ID"),
        secret_key=required("AWS_SECRET_ACCESS_KEY"),
    )


@pytest.fixture(scope="session")
def kubectl(cluster):
    """kubectl as the cluster's administrator."""
    program = Path(shutil.which("kubectl") or "kubectl") if FOREIGN is not None else SETTINGS.kubectl
    return Kubectl(program, cluster)


@pytest.fixture
def make_namespace(kubectl, request):
    """Make a namespace and return kubectl within it; a failed test's report shows all that happened there."""
    made = []

    def make(prefix="e2e", *, restricted=True):
        name = f"{prefix}-{SESSION}-{next(NUMBERS)}"
        metadata = {"name": name, "labels": RESTRICTED if restricted else {}}
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        inside = kubectl.within(name)
        made.append(inside)
        # A pod is refused until the controller-manager has made the namespace's default account.
        inside.wait(f"the service account of {name}", lambda: inside.ok("get", "serviceaccount", "default"))
        return inside

    request.node.stash[NAMESPACES] = made
    yield make
    for inside in made:
        # Jobs first, or their operator makes the pods anew; then no grace, since nobody waits for their state.
        inside.run("delete", "pytorchjobs", "--all", "--wait=false")
        inside.run("delete", "pods", "--all", "--grace-period=1", "--wait=false")
        inside.run("delete", "namespace", inside.namespace, "--wait=false")


@pytest.fixture
def namespace(make_namespace):
    """kubectl within a fresh namespace that enforces Pod Security's `restricted` level."""
    return make_namespace()


NAMESPACES = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the state of the test's namespaces to its report, before they are deleted."""
    report = yield
    if call.when in {"setup", "call"} and report.failed:
        for inside in item.stash.get(NAMESPACES, []):
            report.sections.append((f"namespace {inside.namespace}", diagnose(inside)))
    return report


@pytest.fixture(scope="session")
def emoji(s3, tmp_path_factory):
    """Bucket with the emoji data set, packed by `clipctl data pack`; this process then talks to that S3 server."""
    bucket = f"clip-{SESSION}"
    folder = tmp_path_factory.mktemp("emoji")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment(in_cluster=False).items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        make_bucket(bucket)
        root = Path(__file__).resolve().parents[2]
        subprocess.run([sys.executable, root / "scripts" / "make_emoji.py", folder], check=True)
        for split in ("train", "val"):
            target = f"s3://{bucket}/emoji/{split}"
            words = ["data", "pack", str(folder / "manifest.jsonl"), target, "--split", split]
            subprocess.run([sys.executable, "-m", "clipctl", *words, "--samples-per-shard", "250"], check=True)
        yield bucket


def make_bucket(name):
    import s3fs

    s3fs.S3FileSystem().mkdir(name)


@pytest.fixture
def bare_lab(namespace, s3, image, emoji, tmp_path, monkeypatch):
    """A restricted namespace with data and credentials, but without the operator."""
    for name, value in s3.environment(in_cluster=False).items():  # the tests' own settings remove them
        monkeypatch.setenv(name, value)
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys})
    return Lab(namespace, s3, image, emoji, tmp_path)


@pytest.fixture
def lab(bare_lab):
    """The same with the operator, installed from its chart and leading."""
    install_operator(bare_lab)
    return bare_lab


def install_operator(lab):
    repository, _, tag = lab.image.rpartition(":")
    values = {
        "image": {"repository": repository, "tag": tag},
        "env": {"AWS_ENDPOINT_URL": lab.s3.in_cluster, "AWS_REGION": lab.s3.region},
        "envFrom": [{"secretRef": {"name": SECRET}}],
    }
    chart = Path(__file__).resolve().parents[2] / "charts" / "clip-operator"
    text = choose_renderer().render(chart, values, "clip-operator", lab.kubectl.namespace)
    lab.kubectl.apply(*(item for item in parse_manifests(text) if not is_hook(item)))
    lab.kubectl.run("rollout", "status", "deployment/clip-operator", "--timeout=120s", timeout=130)


@pytest.fixture(scope="session")
def reference(emoji, s3, image, tmp_path_factory):
    """Ledger of the lab's standard run, trained without any disturbance by one process on this machine."""
    kubectl = Kubectl(Path("kubectl"), Path("none"))
    lab = Lab(kubectl, s3, image, emoji, tmp_path_factory.mktemp("reference"))
    spec = load_spec(str(lab.run_file("reference")))
    config = lab.folder / "config.json"
    config.write_text(json.dumps({"spec": spec.resolved(), "spec_digest": spec.digest()}))
    subprocess.run([sys.executable, "-m", "clip_trainer.main", str(config)], check=True, timeout=600)
    return lab.kept_steps("reference")
