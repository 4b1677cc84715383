"""Up, down and status of the whole cluster."""

from __future__ import annotations

import datetime
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

from clip_testkit.cluster import addons, binaries, certificates, containerd, controlplane, kubeconfig, netns, node, s3
from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.cleanup import remove_cgroups, unmount_below
from clip_testkit.cluster.packages import install_prerequisites, require_root
from clip_testkit.cluster.processes import Registry
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import locked, run, say, succeeds, wait_until
from clipctl.contract.errors import ClusterConfigError, UnavailableError

PROCESSES = (
    "etcd",
    "apiserver",
    "api-relay",
    "kcm",
    "scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
    "s3",
    "s3-relay",
)


def registry(settings: Settings) -> Registry:
    """The cluster's processes."""
    return Registry(settings.state / "processes", settings.logs)


def external_kubeconfig(settings: Settings) -> Path | None:
    """The `KUBECONFIG` of a cluster that is not ours; None if unset, or if it names our own file."""
    value = os.environ.get("KUBECONFIG")
    return None if not value or Path(value).absolute() == settings.kubeconfig else Path(value)


def is_up(settings: Settings) -> bool:
    """Whether every process runs, the API server is ready and the add-ons were installed."""
    processes = registry(settings)
    alive = all(processes.pid(name) is not None for name in PROCESSES)
    return alive and (settings.state / "complete").exists() and _api_ready(settings)


def up(settings: Settings) -> Path:
    """Bring the cluster up and return the path of its kubeconfig; does nothing if it is up.

    A cluster named by `KUBECONFIG` is checked and used instead.

    Raises:
        ClusterConfigError: not root, Go or a package missing, or the foreign cluster lacks PyTorchJob.
        UnavailableError: a part did not start; the text ends with its log.
    """
    foreign = external_kubeconfig(settings)
    if foreign is not None:
        check_external(foreign)
        return foreign
    require_root()
    install_prerequisites()
    binaries.build(settings)
    with locked(settings.cache / "cluster.lock"):
        if not is_up(settings):
            _tear_down(settings)
            _start_everything(settings)
    return settings.kubeconfig


def down(settings: Settings) -> None:
    """Stop the cluster and remove what it left; also after a crash, and when it is not up. Images and logs stay."""
    require_root()
    with locked(settings.cache / "cluster.lock"):
        _tear_down(settings)


def check_external(path: Path) -> None:
    """Check that somebody else's cluster can run the tests.

    Raises:
        ClusterConfigError: it does not answer or does not serve PyTorchJob.
    """
    kubectl = ["kubectl", f"--kubeconfig={path}"]
    if not succeeds([*kubectl, "get", "--raw", "/readyz"]):
        raise ClusterConfigError(f"the cluster of KUBECONFIG={path} does not answer.", hint="Unset it to use our own.")
    if not succeeds([*kubectl, "get", "crd", "pytorchjobs.kubeflow.org"]):
        raise ClusterConfigError(
            f"the cluster of KUBECONFIG={path} has no PyTorchJob.",
            hint="Install training-operator 1.9, or unset KUBECONFIG to use our own cluster.",
        )
    say(f"using the cluster of KUBECONFIG={path}")


def _start_everything(settings: Settings) -> None:
    began = time.monotonic()
    netns.create()
    _write_files(settings)
    _start_control_plane(settings)
    _start_node(settings)
    say(f"node ready after {time.monotonic() - began:.0f} s")
    _start_s3(settings)
    addons.install(settings)
    (settings.state / "complete").touch()
    say(f"up after {time.monotonic() - began:.0f} s; export KUBECONFIG={settings.kubeconfig}")


def _write_files(settings: Settings) -> None:
    pki = settings.state / "pki"
    certificates.write_all(pki, datetime.datetime.now(datetime.timezone.utc))
    server = f"https://{pinned.NODE_IP}:{pinned.API_PORT}"
    for identity in ("node", "kcm", "scheduler", "proxy"):
        kubeconfig.write(settings.state / f"{identity}.kubeconfig", server, pki, identity)
    kubeconfig.write(settings.kubeconfig, f"https://127.0.0.1:{settings.host_api_port}", pki, "admin")
    node.write_configuration(settings)


def _start_control_plane(settings: Settings) -> None:
    processes = registry(settings)
    processes.start("etcd", netns.inside(controlplane.etcd(settings)))
    processes.start("apiserver", netns.inside(controlplane.apiserver(settings)))
    processes.start("api-relay", netns.relay_command(settings.host_api_port, f"127.0.0.1:{pinned.API_PORT}"))
    # containerd needs no API server: its start hides in the other's.
    _start_containerd(settings)
    wait_until(
        lambda: _api_ready(settings),
        "the API server becoming ready",
        seconds=90,
        watch=lambda: processes.require_alive("etcd", "apiserver", "api-relay"),
    )
    processes.start("kcm", netns.inside(controlplane.controller_manager(settings)))
    processes.start("scheduler", netns.inside(controlplane.scheduler(settings)))


def _start_containerd(settings: Settings) -> None:
    processes = registry(settings)

    def start() -> None:
        processes.start("containerd", netns.inside(node.containerd(settings)))
        wait_until(
            lambda: containerd.serves(settings),
            "containerd answering",
            seconds=30,
            watch=lambda: processes.require_alive("containerd"),
        )

    start()
    if containerd.discard_containers(settings):
        # Left by a crash: containerd's CRI part has read them at its start and must forget them.
        processes.stop("containerd")
        start()
    containerd.ensure_system_images(settings)


def _start_node(settings: Settings) -> None:
    processes = registry(settings)
    processes.start("kubelet", netns.inside(node.kubelet(settings)))
    processes.start("kube-proxy", netns.inside(node.kube_proxy(settings)))
    kubectl = settings.kubectl_command()
    wait_until(
        lambda: succeeds([*kubectl, "get", "node", pinned.NODE]),
        "the node's registration",
        seconds=60,
        watch=lambda: processes.require_alive("kubelet", "kcm", "scheduler"),
    )
    run([*kubectl, "wait", "--for=condition=Ready", f"node/{pinned.NODE}", "--timeout=60s"])


def _start_s3(settings: Settings) -> None:
    processes = registry(settings)
    processes.start("s3", netns.inside(s3.server()))
    target = f"{pinned.NODE_IP}:{pinned.S3_PORT}"
    processes.start("s3-relay", netns.relay_command(settings.host_s3_port, target))
    url = s3.endpoint(settings).on_host
    wait_until(
        lambda: _answers(url),
        "the S3 server answering",
        seconds=60,
        watch=lambda: processes.require_alive("s3", "s3-relay"),
    )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _api_ready(settings: Settings) -> bool:
    ready = [*settings.kubectl_command(), "--request-timeout=5s", "get", "--raw", "/readyz"]
    return settings.kubeconfig.exists() and succeeds(ready, timeout=10)


def _tear_down(settings: Settings) -> None:
    processes = registry(settings)
    # kubelet first, or it would start again what is killed next.
    processes.stop("kubelet", "kube-proxy", "kcm", "scheduler", "s3", "s3-relay")
    wait_until(lambda: _pods_gone(settings), "the end of all pods", seconds=30)
    if processes.pid("containerd") is not None and containerd.serves(settings):
        containerd.discard_containers(settings)
    processes.stop("containerd", "apiserver", "api-relay")
    processes.stop("etcd")
    unmount_below(settings.state)
    netns.remove()
    remove_cgroups()
    if settings.state.exists():
        shutil.rmtree(settings.state)


def _pods_gone(settings: Settings) -> bool:
    containerd.kill_pods(settings)
    return not containerd.shims(settings)


def status(settings: Settings) -> dict[str, object]:
    """What runs, where, and how much memory it holds."""
    processes = registry(settings)
    pids = {name: processes.pid(name) for name in PROCESSES}
    if not any(pids.values()):
        return {"up": False}
    memory = {name: _resident_mib(pid) for name, pid in pids.items() if pid is not None}
    return {
        "up": is_up(settings),
        "kubeconfig": str(settings.kubeconfig),
        "s3": s3.endpoint(settings).__dict__,
        "processes": pids,
        "resident_mib": memory,
        "resident_mib_total": sum(memory.values()),
    }


def _resident_mib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError as error:
        raise UnavailableError(f"process {pid} ended while it was looked at.") from error
    return sum(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:"))
