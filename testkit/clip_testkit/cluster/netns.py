"""The network namespace of the cluster: own addresses, no way out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.shell import Argument, run
from clipctl.contract.errors import UnavailableError

HANDLE = Path("/var/run/netns") / pinned.NAMESPACE
CNI_RESULTS = Path("/var/lib/cni/results")


def inside(argv: Sequence[Argument]) -> list[Argument]:
    """A command that runs in the namespace.

    `nsenter` and not `ip netns exec`: the latter mounts a fresh /sys and so hides the cgroups from kubelet.
    """
    return ["nsenter", f"--net={HANDLE}", *argv]


def setup_commands() -> list[list[str]]:
    """The commands, run inside, that give the namespace its addresses.

    The node's address sits on a bridge without ports, since some kernels lack the dummy device. The service range is
    routed to it so that a ClusterIP has a route at all before kube-proxy's rules rewrite it. The default route is a
    black hole: the node and its pods reach each other and nothing else.
    """
    bridge = f"{pinned.NODE}"
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", bridge, "type", "bridge"],
        ["ip", "addr", "add", f"{pinned.NODE_IP}/32", "dev", bridge],
        ["ip", "link", "set", bridge, "up"],
        ["ip", "route", "add", pinned.SERVICE_CIDR, "dev", bridge],
        ["ip", "route", "add", "blackhole", "default"],
        ["sysctl", "-qw", "net.ipv4.ip_forward=1"],
    ]


def create() -> None:
    """Make the namespace and its network."""
    run(["ip", "netns", "add", pinned.NAMESPACE])
    for command in setup_commands():
        run(inside(command))
    # Service addresses that pods reach over the bridge must pass through iptables; some kernels always do that.
    with contextlib.suppress(UnavailableError):
        run(inside(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"]))


def remove() -> None:
    """Remove the namespace and those that containerd made for its pods and could not clean up."""
    for path in CNI_RESULTS.glob(f"{pinned.NAMESPACE}-*"):
        container, names = pod_namespaces(path.read_text())
        for name in names:
            if Path("/var/run/netns", name).exists():
                run(["ip", "netns", "del", name])
        for record in CNI_RESULTS.glob(f"*-{container}-*"):
            record.unlink()
    if HANDLE.exists():
        run(["ip", "netns", "del", pinned.NAMESPACE])


def pod_namespaces(cni_result: str) -> tuple[str, list[str]]:
    """Container id and names of network namespaces in CNI's cached result of one attachment (kind `cniCacheV1`)."""
    result = json.loads(cni_result)
    interfaces = result.get("result", {}).get("interfaces", [])
    return result["containerId"], sorted({Path(i["sandbox"]).name for i in interfaces if i.get("sandbox")})


def relay_command(port: int, target: str) -> list[str]:
    """A relay from a port of the host's 127.0.0.1 to an address inside, e.g. `127.0.0.1:6443`."""
    host, _, inner_port = target.rpartition(":")
    dial = f"nsenter --net={HANDLE} socat STDIO TCP\\:{host}\\:{inner_port}"
    return ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", f"EXEC:{dial}"]
