"""What runs in the cluster from its start: CoreDNS and training-operator."""

from __future__ import annotations

from typing import Any

import yaml

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.binaries import operator_manifest
from clip_testkit.cluster.containerd import COREDNS_IMAGE
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import run

COREFILE = """\
.:53 {
  errors
  ready
  kubernetes cluster.local in-addr.arpa {
    ttl 1
  }
  reload
}
"""
"""Answers for the cluster only: there is no name server to forward to. Short lives so that restarted pods are found."""


def _metadata(name: str, namespaced: bool = True) -> dict[str, str]:
    return {"name": name, "namespace": "kube-system"} if namespaced else {"name": name}


def _coredns_access() -> list[dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    watch = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
    ]
    role = {"kind": "ClusterRole", "metadata": _metadata("coredns", False), "rules": rules}
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": _metadata("coredns", False),
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("coredns")}
    return [account, *({"apiVersion": f"{group}/v1", **item} for item in (role, binding))]


def _coredns_pod() -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    return {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }


def coredns_manifests() -> list[dict[str, Any]]:
    """Everything CoreDNS needs, as Kubernetes objects."""
    labels = {"app": "coredns"}
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    service = {"clusterIP": pinned.DNS_SERVICE_IP, "selector": labels, "ports": ports}
    template = {"metadata": {"labels": labels}, "spec": _coredns_pod()}
    return [
        *_coredns_access(),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata("coredns"), "data": {"Corefile": COREFILE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": _metadata("kube-dns"), "spec": service},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _metadata("coredns"),
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    ]


def install(settings: Settings) -> None:
    """Apply both add-ons and wait until they serve.

    Server-side apply, since the PyTorchJob definition (644 KB) exceeds the annotation that client-side apply writes.
    """
    kubectl = settings.kubectl_command()
    apply = [*kubectl, "apply", "--server-side", "-f"]
    run([*apply, "-"], stdin=yaml.safe_dump_all(coredns_manifests()))
    run([*apply, str(operator_manifest(settings))])
    for namespace, name in (("kube-system", "coredns"), ("kubeflow", "training-operator")):
        run([*kubectl, "-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=120s"])
