"""Versions, addresses and directories of the test cluster: everything that is a choice and not a mechanism."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Kubernetes 1.35 and newer want cgroup v2 and containerd 2; Debian 12 has containerd 1.6 and many CI kernels cgroup v1.
KUBERNETES = "1.34.4"
ETCD = "3.6.16"
COREDNS = "1.14.7"
TRAINING_OPERATOR = "1.9.4"
HELM = "4.2.4"
KWOK = "0.8.0"
DEBIAN = "bookworm"

NAMESPACE = "clip"
"""Name of the network namespace and of the CNI network."""
NODE = "node0"
NODE_IP = "10.88.0.1"
POD_CIDR = "10.88.1.0/24"
SERVICE_CIDR = "10.89.0.0/16"
API_SERVICE_IP = "10.89.0.1"
DNS_SERVICE_IP = "10.89.0.10"
API_PORT = 6443
S3_PORT = 9000


@dataclass(frozen=True)
class Settings:
    """Where this machine keeps the cluster and how the host reaches it.

    Attributes:
        cache: binaries, images and wheels by version; survives `down`; safe to delete while the cluster is down.
        state: everything of the running cluster (certificates, etcd, sockets, process ids); gone after `down`.
        host_api_port: port on 127.0.0.1 relayed to the API server.
        host_s3_port: port on 127.0.0.1 relayed to the S3 server.
    """

    cache: Path
    state: Path
    host_api_port: int = 16443
    host_s3_port: int = 19000

    @property
    def bin(self) -> Path:
        """Directory of the built binaries, named `<name>-<version>`."""
        return self.cache / "bin"

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig for use from the host."""
        return self.state / "host.kubeconfig"

    @property
    def logs(self) -> Path:
        """One log a process; kept by `down` for the post-mortem, overwritten by the next `up`."""
        return self.cache / "logs"

    @property
    def containerd_socket(self) -> Path:
        """Address of containerd's gRPC API."""
        return self.state / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Images and their unpacked layers: kept across clusters so that each is imported once a machine."""
        return self.cache / "containerd"

    def binary(self, name: str, version: str) -> Path:
        """Path of a built binary, e.g. `bin/kubelet-1.34.4`."""
        return self.bin / f"{name}-{version}"

    def kubectl_command(self) -> list[str]:
        """Start of a kubectl command line against the cluster, as administrator."""
        return [str(self.kubectl), f"--kubeconfig={self.kubeconfig}"]

    @property
    def kubectl(self) -> Path:
        """The kubectl of the cluster's own version."""
        return self.binary("kubectl", KUBERNETES)


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of this machine.

    Reads `CLIPCTL_CACHE` (default `$XDG_CACHE_HOME/clipctl` or `~/.cache/clipctl`), `CLIPCTL_API_PORT` and
    `CLIPCTL_S3_PORT`.

    Raises:
        ValueError: a port is not a number.
    """
    env = os.environ if environ is None else environ
    xdg = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "~")).expanduser() / ".cache")
    cache = Path(env.get("CLIPCTL_CACHE") or xdg / "clipctl").expanduser().absolute()
    return Settings(
        cache=cache,
        state=cache / "cluster",
        host_api_port=int(env.get("CLIPCTL_API_PORT") or 16443),
        host_s3_port=int(env.get("CLIPCTL_S3_PORT") or 19000),
    )
