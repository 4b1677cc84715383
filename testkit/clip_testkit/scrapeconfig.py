"""PodMonitors and ServiceMonitors as scrape configurations, relabelled as prometheus-operator does it.

Kubernetes' service discovery is replaced by a list of endpoints with the meta labels it would give them
(prometheus.io, "kubernetes_sd_config"); selection and relabelling are then Prometheus' own work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_KNOWN = {"port", "interval", "honorLabels", "relabelings"}
_RELABELING = {
    "sourceLabels": "source_labels",
    "targetLabel": "target_label",
    "separator": "separator",
    "regex": "regex",
    "replacement": "replacement",
    "action": "action",
}


@dataclass(frozen=True)
class Endpoint:
    """One named port of one pod.

    Attributes:
        address: where Prometheus reaches it, `host:port`.
        namespace: of the pod.
        pod: its name.
        container: name of the container with the port.
        port: name of the port.
        labels: of the pod.
        service: name of the Service in front, if the endpoint was found through one.
        service_labels: of that Service.
    """

    address: str
    namespace: str
    pod: str
    container: str
    port: str
    labels: Mapping[str, str]
    service: str = ""
    service_labels: Mapping[str, str] = field(default_factory=dict)

    def discovered(self) -> dict[str, str]:
        """The labels of the target before relabelling."""
        meta = {
            "namespace": self.namespace,
            "pod_name": self.pod,
            "pod_phase": "Running",
            "pod_container_name": self.container,
            "pod_container_port_name": self.port,
            **dict(_label_metas("pod", self.labels)),
        }
        if self.service:
            meta |= {
                "service_name": self.service,
                "endpoint_port_name": self.port,
                "endpoint_address_target_kind": "Pod",
                "endpoint_address_target_name": self.pod,
                **dict(_label_metas("service", self.service_labels)),
            }
        return {f"__meta_kubernetes_{name}": value for name, value in meta.items()}


def scrape_configs(monitor: Mapping[str, Any], endpoints: Sequence[Endpoint]) -> list[dict[str, Any]]:
    """One scrape configuration for each endpoint of a PodMonitor or ServiceMonitor.

    Every configuration gets all of `endpoints`, as in a cluster: which of them it scrapes, the monitor's selector says.

    Raises:
        ValueError: the monitor uses a field that this translation does not know.
    """
    metadata, spec = monitor["metadata"], monitor["spec"]
    of_pods = monitor["kind"] == "PodMonitor"
    job = f"{monitor['kind']}/{metadata['namespace']}/{metadata['name']}"
    configs = []
    for index, entry in enumerate(spec["podMetricsEndpoints" if of_pods else "endpoints"]):
        if unknown := (entry.keys() - _KNOWN) | (spec.keys() - {"selector", "podMetricsEndpoints", "endpoints"}):
            raise ValueError(f"{job}: unknown fields {sorted(unknown)}")
        selected = _selection(metadata["namespace"], spec["selector"]["matchLabels"], "pod" if of_pods else "service")
        own = [_renamed(relabeling) for relabeling in entry.get("relabelings", [])]
        identity = _pod_identity if of_pods else _service_identity
        configs.append(
            {
                "job_name": f"{job}/{index}",
                "honor_labels": entry.get("honorLabels", False),
                "static_configs": [
                    {"targets": [endpoint.address], "labels": endpoint.discovered()} for endpoint in endpoints
                ],
                "relabel_configs": [*selected, *identity(metadata, entry["port"]), *own],
            }
        )
    return configs


def _selection(namespace: str, labels: Mapping[str, str], subject: str) -> Iterator[dict[str, Any]]:
    yield _keep("namespace", namespace)
    for name, value in _label_metas(subject, labels):
        yield _keep(name, value)
    yield {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"}


def _pod_identity(metadata: Mapping[str, Any], port: str) -> Iterator[dict[str, Any]]:
    yield _keep("pod_container_port_name", port)
    yield _copy("namespace", "namespace")
    yield _copy("pod_container_name", "container")
    yield _copy("pod_name", "pod")
    yield {"target_label": "job", "replacement": f"{metadata['namespace']}/{metadata['name']}"}
    yield {"target_label": "endpoint", "replacement": port}


def _service_identity(_metadata: Mapping[str, Any], port: str) -> Iterator[dict[str, Any]]:
    yield _keep("endpoint_port_name", port)
    yield {
        "source_labels": [
            "__meta_kubernetes_endpoint_address_target_kind",
            "__meta_kubernetes_endpoint_address_target_name",
        ],
        "regex": "Pod;(.*)",
        "target_label": "pod",
    }
    yield _copy("namespace", "namespace")
    yield _copy("service_name", "service")
    yield _copy("pod_container_name", "container")
    yield _copy("service_name", "job")
    yield {"target_label": "endpoint", "replacement": port}


def _keep(meta: str, value: str) -> dict[str, Any]:
    return {"source_labels": [f"__meta_kubernetes_{meta}"], "regex": re.escape(value), "action": "keep"}


def _copy(meta: str, target: str) -> dict[str, Any]:
    return {"source_labels": [f"__meta_kubernetes_{meta}"], "target_label": target}


def _label_metas(subject: str, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in labels.items():
        yield f"{subject}_label_{re.sub(r'[^A-Za-z0-9_]', '_', name)}", value


def _renamed(relabeling: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := relabeling.keys() - _RELABELING.keys():
        raise ValueError(f"unknown fields of a relabeling: {sorted(unknown)}")
    return {_RELABELING[name]: value for name, value in relabeling.items()}
