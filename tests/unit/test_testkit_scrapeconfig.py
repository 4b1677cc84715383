"""Monitors become scrape configurations as prometheus-operator writes them."""

import pytest

from clip_testkit.scrapeconfig import Endpoint, scrape_configs

ENDPOINT = Endpoint("127.0.0.1:1", "team", "p-0", "c", "metrics", {"clipctl.dev/run": "demo"})
BEHIND = Endpoint("127.0.0.1:2", "sys", "o-0", "operator", "metrics", {}, "svc", {"app.kubernetes.io/name": "x"})


def monitor(kind, entry, **spec):
    name = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}[kind]
    selector = {"matchLabels": {"clipctl.dev/run": "demo"}}
    return {
        "kind": kind,
        "metadata": {"name": "n", "namespace": "team"},
        "spec": {"selector": selector, name: [entry], **spec},
    }


def test_an_endpoint_has_the_labels_that_discovery_gives():
    assert ENDPOINT.discovered() == {
        "__meta_kubernetes_namespace": "team",
        "__meta_kubernetes_pod_name": "p-0",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_container_name": "c",
        "__meta_kubernetes_pod_container_port_name": "metrics",
        "__meta_kubernetes_pod_label_clipctl_dev_run": "demo",
    }
    behind = BEHIND.discovered()
    assert behind["__meta_kubernetes_service_label_app_kubernetes_io_name"] == "x"
    assert behind["__meta_kubernetes_endpoint_address_target_name"] == "o-0"


def test_a_pod_monitor_selects_and_names_pods():
    own = {"sourceLabels": ["a"], "targetLabel": "run"}
    (config,) = scrape_configs(monitor("PodMonitor", {"port": "metrics", "relabelings": [own]}), [ENDPOINT, BEHIND])
    assert config["honor_labels"] is False
    assert [target["targets"] for target in config["static_configs"]] == [["127.0.0.1:1"], ["127.0.0.1:2"]]
    rules = config["relabel_configs"]
    kept = {rule["source_labels"][0]: rule["regex"] for rule in rules if rule.get("action") == "keep"}
    assert kept == {
        "__meta_kubernetes_namespace": "team",
        "__meta_kubernetes_pod_label_clipctl_dev_run": "demo",
        "__meta_kubernetes_pod_container_port_name": "metrics",
    }
    assert rules[-1] == {"source_labels": ["a"], "target_label": "run"}
    assert {"target_label": "job", "replacement": "team/n"} in rules


def test_a_service_monitor_selects_by_the_service_and_keeps_the_pod():
    (config,) = scrape_configs(monitor("ServiceMonitor", {"port": "metrics", "honorLabels": True}), [BEHIND])
    assert config["honor_labels"] is True
    kept = [rule["source_labels"][0] for rule in config["relabel_configs"] if rule.get("action") == "keep"]
    assert "__meta_kubernetes_service_label_clipctl_dev_run" in kept
    (pod,) = [rule for rule in config["relabel_configs"] if rule.get("target_label") == "pod"]
    assert pod["regex"] == "Pod;(.*)"


@pytest.mark.parametrize(
    "given",
    [
        monitor("PodMonitor", {"port": "metrics", "metricRelabelings": []}),
        monitor("PodMonitor", {"port": "metrics"}, jobLabel="x"),
        monitor("PodMonitor", {"port": "metrics", "relabelings": [{"modulus": 2}]}),
    ],
)
def test_what_is_not_translated_is_refused_rather_than_ignored(given):
    with pytest.raises(ValueError, match="unknown fields"):
        scrape_configs(given, [ENDPOINT])
