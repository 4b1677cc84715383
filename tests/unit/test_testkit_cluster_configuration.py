"""What the test cluster's parts are told: directories, go.mod, command lines, network, add-ons."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from clip_testkit.cluster import addons, binaries, controlplane, netns, node, s3
from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.gomod import STAGING, kubernetes_go_mod, kubernetes_ldflags, module_go_mod
from clip_testkit.cluster.settings import Settings, from_environment

SETTINGS = Settings(cache=Path("/c"), state=Path("/c/cluster"))


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HOME": "/h"}, "/h/.cache/clipctl"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/clipctl"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "CLIPCTL_CACHE": "/mine"}, "/mine"),
        ({"HOME": "/h", "CLIPCTL_CACHE": ""}, "/h/.cache/clipctl"),
    ],
)
def test_cache_directory_follows_the_environment(environ, cache):
    settings = from_environment(environ)
    assert settings.cache == Path(cache)
    assert settings.state.is_relative_to(settings.cache)


def test_ports_follow_the_environment():
    settings = from_environment({"HOME": "/h", "CLIPCTL_API_PORT": "1", "CLIPCTL_S3_PORT": "2"})
    assert (settings.host_api_port, settings.host_s3_port) == (1, 2)
    with pytest.raises(ValueError, match="many"):
        from_environment({"HOME": "/h", "CLIPCTL_API_PORT": "many"})


def test_binaries_are_keyed_by_version():
    assert SETTINGS.binary("etcd", "3.6.16") == Path("/c/bin/etcd-3.6.16")
    assert SETTINGS.kubectl.name == f"kubectl-{pinned.KUBERNETES}"


def test_logs_and_images_outlive_the_cluster():
    assert not SETTINGS.logs.is_relative_to(SETTINGS.state)
    assert not SETTINGS.containerd_root.is_relative_to(SETTINGS.state)


def test_kubernetes_go_mod_replaces_each_staging_module_by_its_release():
    text = kubernetes_go_mod("1.34.4", ["kubelet", "kubectl"])
    lines = text.splitlines()
    assert "require k8s.io/kubernetes v1.34.4" in lines
    assert [line for line in lines if line.startswith("replace")] == [
        f"replace k8s.io/{name} => k8s.io/{name} v0.34.4" for name in STAGING
    ]
    assert lines[-2:] == ["tool k8s.io/kubernetes/cmd/kubelet", "tool k8s.io/kubernetes/cmd/kubectl"]
    assert len(set(STAGING)) == len(STAGING)


@pytest.mark.parametrize("version", ["1.34", "2.0.1", "v1.34.4", ""])
def test_other_version_schemes_are_refused(version):
    with pytest.raises(ValueError, match="Kubernetes version"):
        kubernetes_go_mod(version, ["kubelet"])


def test_linker_flags_name_the_release():
    assert "gitVersion=v1.34.4" in kubernetes_ldflags("1.34.4")
    assert kubernetes_ldflags("1.34.4").endswith("gitMinor=34")


def test_go_mod_of_one_module():
    assert module_go_mod("example.org/a", "1.2.3", "example.org/a/cmd", go="1.25") == (
        "module build\n\ngo 1.25\n\nrequire example.org/a v1.2.3\n\ntool example.org/a/cmd\n"
    )


def test_every_cluster_binary_has_a_target_and_kwok_is_not_built_unasked():
    known = binaries.targets()
    assert set(binaries.CLUSTER_TARGETS) < set(known)
    assert "kwok" in known
    assert "kwok" not in binaries.CLUSTER_TARGETS
    used = {controlplane.etcd, controlplane.apiserver, controlplane.controller_manager, controlplane.scheduler}
    built = {SETTINGS.binary(n, t.version) for t in known.values() for n in t.names}
    assert {part(SETTINGS)[0] for part in used} | {node.kubelet(SETTINGS)[0], node.kube_proxy(SETTINGS)[0]} <= built


def test_operator_manifest_gets_a_local_image_and_a_quick_probe():
    upstream = """\
      containers:
      - command: [/manager]
        image: docker.io/kubeflow/training-operator:v1
        livenessProbe:
          httpGet:
            path: /healthz
            port: 8081
          initialDelaySeconds: 15
          periodSeconds: 20
        readinessProbe:
          httpGet:
            path: /readyz
            port: 8081
          initialDelaySeconds: 10
          periodSeconds: 15
          timeoutSeconds: 3
"""
    [container] = yaml.safe_load(binaries.for_this_cluster(upstream, "localhost/x:1"))["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("localhost/x:1", "Never")
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/readyz", "port": 8081},
        "periodSeconds": 1,
        "timeoutSeconds": 3,
    }
    assert container["livenessProbe"]["initialDelaySeconds"] == 15


def test_operator_manifest_with_the_image_first_in_its_list_item():
    text = "containers:\n- image: ghcr.io/kubeflow/training-v1/training-operator:v1\n  name: a\n"
    [container] = yaml.safe_load(binaries.for_this_cluster(text, "localhost/x:1"))["containers"]
    assert container == {"image": "localhost/x:1", "imagePullPolicy": "Never", "name": "a"}


def test_fields_named_image_in_a_schema_stay():
    schema = "properties:\n  image:\n    description: an image\n"
    assert binaries.for_this_cluster(schema, "localhost/x:1") == schema


def test_namespace_has_no_way_out():
    commands = netns.setup_commands()
    assert ["ip", "route", "add", "blackhole", "default"] in commands
    assert not any("via" in command for command in commands)


def test_relay_listens_on_loopback_only():
    listen, dial = netns.relay_command(16443, "10.88.0.1:9000")[1:]
    assert "bind=127.0.0.1" in listen
    assert "TCP-LISTEN:16443" in listen
    assert dial.endswith("socat STDIO TCP\\:10.88.0.1\\:9000")


def test_pod_namespaces_are_read_from_cni_results():
    result = {
        "containerId": "abc",
        "networkName": "clip",
        "result": {
            "interfaces": [{"name": "clip0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}]
        },
    }
    assert netns.pod_namespaces(json.dumps(result)) == ("abc", ["cni-1"])
    assert netns.pod_namespaces('{"containerId": "abc"}') == ("abc", [])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_containerd_config_keeps_images_outside_the_state():
    import tomllib

    config = tomllib.loads(node.containerd_config(SETTINGS))
    assert config["root"] == "/c/containerd"
    assert config["state"].startswith("/c/cluster/")
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == node.PAUSE_IMAGE
    assert cri["restrict_oom_score_adj"] is True


def test_kubelet_never_collects_images_and_asks_our_dns():
    config = yaml.safe_load(node.kubelet_config(SETTINGS))
    assert config["imageGCHighThresholdPercent"] == 100
    assert config["clusterDNS"] == [pinned.DNS_SERVICE_IP]
    assert config["authentication"]["anonymous"]["enabled"] is False
    assert config["containerRuntimeEndpoint"] == f"unix://{SETTINGS.containerd_socket}"


def test_pods_get_addresses_of_their_own_range():
    plugins = json.loads(node.cni_config(SETTINGS))["plugins"]
    assert plugins[0]["ipam"]["ranges"] == [[{"subnet": pinned.POD_CIDR}]]
    assert plugins[0]["ipMasq"] is False


def test_unix_socket_path_fits_the_kernel():
    """`sun_path` holds 108 bytes (unix(7)); a deep home directory must not break containerd."""
    deep = from_environment({"HOME": "/home/" + "u" * 32})
    assert len(str(deep.containerd_socket)) < 108


def test_api_server_authorizes_and_is_told_all_keys():
    command = [str(word) for word in controlplane.apiserver(SETTINGS)]
    assert "--authorization-mode=Node,RBAC" in command
    assert not any("PodSecurity" in word and "disable" in word for word in command)
    keys = [word.split("=")[1] for word in command if word.endswith((".crt", ".key", ".pub"))]
    assert all(key.startswith("/c/cluster/pki/") for key in keys)
    assert len(keys) == 7


def test_coredns_objects_belong_together():
    objects = {(o["kind"], o["metadata"]["name"]): o for o in addons.coredns_manifests()}
    deployment = objects["Deployment", "coredns"]["spec"]
    service = objects["Service", "kube-dns"]["spec"]
    assert service["clusterIP"] == pinned.DNS_SERVICE_IP
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    pod = deployment["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in objects
    assert pod["containers"][0]["imagePullPolicy"] == "Never"
    verbs = {verb for rule in objects["ClusterRole", "coredns"]["rules"] for verb in rule["verbs"]}
    assert verbs == {"list", "watch"}
    assert "forward" not in objects["ConfigMap", "coredns"]["data"]["Corefile"]


def test_s3_is_reached_by_two_addresses():
    endpoint = s3.endpoint(SETTINGS)
    assert endpoint.environment(in_cluster=True)["AWS_ENDPOINT_URL"] == f"http://{pinned.NODE_IP}:{pinned.S3_PORT}"
    assert endpoint.environment(in_cluster=False)["AWS_ENDPOINT_URL"] == "http://127.0.0.1:19000"
    assert s3.server()[-4:] == ["-H", pinned.NODE_IP, "-p", str(pinned.S3_PORT)]
