"""What the node runs: configuration of containerd, CNI, kubelet and kube-proxy, and their command lines."""

from __future__ import annotations

import json

import yaml

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.packages import CNI_PLUGINS
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import Argument

PAUSE_IMAGE = "localhost/clipctl/pause:1"


def containerd_config(settings: Settings) -> str:
    """The TOML of containerd; `restrict_oom_score_adj`: lowering it needs CAP_SYS_RESOURCE, which CI may lack."""
    return f"""version = 2
root = "{settings.containerd_root}"
state = "{settings.state}/containerd"
[grpc]
  address = "{settings.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{settings.state}/cni"
"""


def cni_config(settings: Settings) -> str:
    """The pod network: one bridge, addresses by file."""
    bridge = {
        "type": "bridge",
        "bridge": "clip0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{settings.state}/ipam",
            "ranges": [[{"subnet": pinned.POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": pinned.NAMESPACE, "plugins": [bridge, portmap]}, indent=1)


def kubelet_config(settings: Settings) -> str:
    """The configuration of kubelet: short periods, images never collected, and room on a nearly full disk."""
    pki = settings.state / "pki"
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/node.crt",
        "tlsPrivateKeyFile": f"{pki}/node.key",
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket}",
        "clusterDNS": [pinned.DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "failSwapOn": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "1s",
        "nodeStatusUpdateFrequency": "2s",
        "shutdownGracePeriod": "0s",
        "maxPods": 200,
    }
    return yaml.safe_dump(document, sort_keys=False)


def containerd(settings: Settings) -> list[Argument]:
    """Command line of containerd."""
    return ["containerd", "--config", settings.state / "containerd.toml"]


def kubelet(settings: Settings) -> list[Argument]:
    """Command line of kubelet."""
    return [
        settings.binary("kubelet", pinned.KUBERNETES),
        f"--config={settings.state}/kubelet.yaml",
        f"--kubeconfig={settings.state}/node.kubeconfig",
        f"--root-dir={settings.state}/kubelet",
        f"--hostname-override={pinned.NODE}",
        f"--node-ip={pinned.NODE_IP}",
        "--v=2",
    ]


def kube_proxy(settings: Settings) -> list[Argument]:
    """Command line of kube-proxy; the zeros keep it from writing kernel settings that a namespace may not change."""
    return [
        settings.binary("kube-proxy", pinned.KUBERNETES),
        f"--kubeconfig={settings.state}/proxy.kubeconfig",
        f"--hostname-override={pinned.NODE}",
        f"--cluster-cidr={pinned.POD_CIDR}",
        "--proxy-mode=iptables",
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    ]


def write_configuration(settings: Settings) -> None:
    """Write the files that the command lines name."""
    (settings.state / "cni").mkdir(parents=True, exist_ok=True)
    (settings.state / "cni" / "10-clip.conflist").write_text(cni_config(settings))
    (settings.state / "containerd.toml").write_text(containerd_config(settings))
    (settings.state / "kubelet.yaml").write_text(kubelet_config(settings))
