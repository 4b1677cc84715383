"""Building the cluster's binaries from Go modules, once a version and machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.gomod import kubernetes_go_mod, kubernetes_ldflags, module_go_mod
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import locked, run, say
from clipctl.contract.errors import ClusterConfigError

KUBERNETES_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
Builder = Callable[[Path], None]


@dataclass(frozen=True)
class Target:
    """Binaries that one build makes together.

    Attributes:
        names: file names that `build` leaves in the directory it is given.
        version: part of the name in the cache, so another version is another file.
        build: writes the binaries into an empty directory.
    """

    names: tuple[str, ...]
    version: str
    build: Builder


def go_environment() -> dict[str, str]:
    """Environment of every Go build: static binaries, no look at the surrounding repository."""
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}


def _from_go_mod(text: str, ldflags: str, packages: Sequence[str], name: str = "") -> Builder:
    def build(out: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="clipctl-go-") as work:
            Path(work, "go.mod").write_text(text)
            run(["go", "mod", "tidy"], cwd=Path(work), env=go_environment())
            target = f"{out}/{name}"
            run(["go", "build", "-ldflags", ldflags, "-o", target, *packages], cwd=Path(work), env=go_environment())

    return build


def _from_install(package: str, version: str) -> Builder:
    def build(out: Path) -> None:
        env = {**go_environment(), "GOBIN": str(out)}
        run(["go", "install", "-ldflags", "-s -w", f"{package}@v{version}"], env=env)

    return build


def targets() -> dict[str, Target]:
    """Every buildable target by name; `kwok` is built only when asked for."""
    kube, etcd = pinned.KUBERNETES, "go.etcd.io/etcd/server/v3"
    kube_packages = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_COMMANDS]
    kube_build = _from_go_mod(kubernetes_go_mod(kube, KUBERNETES_COMMANDS), kubernetes_ldflags(kube), kube_packages)
    etcd_build = _from_go_mod(module_go_mod(etcd, pinned.ETCD, etcd), "-s -w", [etcd], name="etcd")
    operator = "github.com/kubeflow/training-operator/cmd/training-operator.v1"
    return {
        "kubernetes": Target(KUBERNETES_COMMANDS, kube, kube_build),
        "etcd": Target(("etcd",), pinned.ETCD, etcd_build),
        "training-operator": Target(
            ("training-operator.v1",),
            pinned.TRAINING_OPERATOR,
            _from_install(operator, pinned.TRAINING_OPERATOR),
        ),
        "coredns": Target(("coredns",), pinned.COREDNS, _from_install("github.com/coredns/coredns", pinned.COREDNS)),
        "helm": Target(("helm",), pinned.HELM, _from_install("helm.sh/helm/v4/cmd/helm", pinned.HELM)),
        "kwok": Target(("kwok",), pinned.KWOK, _from_install("sigs.k8s.io/kwok/cmd/kwok", pinned.KWOK)),
    }


CLUSTER_TARGETS = ("kubernetes", "etcd", "training-operator", "coredns", "helm")


def missing(settings: Settings, target: Target) -> list[str]:
    """Names of a target's binaries that the cache lacks."""
    return [name for name in target.names if not settings.binary(name, target.version).exists()]


def build(settings: Settings, names: Sequence[str] = CLUSTER_TARGETS) -> list[Path]:
    """Build what the cache lacks and return the paths of all binaries asked for; safe to run in parallel.

    Raises:
        ClusterConfigError: Go is not installed and something must be built, or a name is unknown.
        UnavailableError: a build failed.
    """
    known = targets()
    for name in names:
        if name not in known:
            raise ClusterConfigError(f"unknown target {name!r}.", hint=f"Known: {', '.join(known)}.")
    with locked(settings.cache / "build.lock"):
        for name in names:
            _ensure(settings, name, known[name])
        _ensure_operator_manifest(settings)
    return [settings.binary(n, known[t].version) for t in names for n in known[t].names]


def _ensure(settings: Settings, name: str, target: Target) -> None:
    if not missing(settings, target):
        return
    _require_go()
    say(f"building {name} {target.version} ...")
    began = time.monotonic()
    settings.bin.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.bin, prefix=".build-") as out:
        target.build(Path(out))
        for binary in target.names:
            # A rename within the directory: a reader sees the whole file or none.
            Path(out, binary).rename(settings.binary(binary, target.version))
    say(f"built {name} {target.version} in {time.monotonic() - began:.0f} s")


def _require_go() -> None:
    if shutil.which("go") is None:
        raise ClusterConfigError(
            "the test cluster is built from Go modules and `go` is not on PATH.",
            hint="Install Go 1.26 or newer (https://go.dev/dl), or point KUBECONFIG at a cluster you already have.",
        )


def operator_manifest(settings: Settings) -> Path:
    """Where the rendered manifests of training-operator lie."""
    return settings.bin / f"training-operator-{pinned.TRAINING_OPERATOR}.yaml"


def _ensure_operator_manifest(settings: Settings) -> None:
    """Render training-operator's own kustomization, so that `up` needs neither Go nor network."""
    path = operator_manifest(settings)
    if path.exists() or not settings.kubectl.exists():
        return
    _require_go()
    module = f"github.com/kubeflow/training-operator@v{pinned.TRAINING_OPERATOR}"
    source = json.loads(run(["go", "mod", "download", "-json", module]))["Dir"]
    text = run([settings.kubectl, "kustomize", f"{source}/manifests/overlays/standalone"])
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(for_this_cluster(text, operator_image()))
    partial.rename(path)


def operator_image() -> str:
    """Name of the image that training-operator's pods run."""
    return f"localhost/clipctl/training-operator:{pinned.TRAINING_OPERATOR}"


def for_this_cluster(manifest: str, image: str) -> str:
    """Adapt training-operator's Deployment: a local image that is never pulled, and a readiness probe each second.

    Upstream probes for the first time after 10 s and then every 15 s, which would be most of the cluster's start.
    """

    def replace(found: re.Match[str]) -> str:
        indent, dash = found.group(1), found.group(2) or ""
        return f"{indent}{dash}image: {image}\n{indent}{' ' * len(dash)}imagePullPolicy: Never"

    text = re.sub(r"^(\s*)(- )?image: .*kubeflow/training.*$", replace, manifest, flags=re.MULTILINE)
    probe = r"(path: /readyz\s+port: 8081\s+)initialDelaySeconds: \d+\s+periodSeconds: \d+"
    return re.sub(probe, r"\g<1>periodSeconds: 1", text)
