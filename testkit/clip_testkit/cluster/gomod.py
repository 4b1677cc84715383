"""The text of the go.mod files that the cluster's binaries are built from."""

from __future__ import annotations

from collections.abc import Sequence

STAGING = (
    "api",
    "apiextensions-apiserver",
    "apimachinery",
    "apiserver",
    "cli-runtime",
    "client-go",
    "cloud-provider",
    "cluster-bootstrap",
    "code-generator",
    "component-base",
    "component-helpers",
    "controller-manager",
    "cri-api",
    "cri-client",
    "csi-translation-lib",
    "dynamic-resource-allocation",
    "endpointslice",
    "externaljwt",
    "kms",
    "kube-aggregator",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "metrics",
    "mount-utils",
    "pod-security-admission",
    "sample-apiserver",
    "sample-cli-plugin",
    "sample-controller",
)


def kubernetes_go_mod(version: str, commands: Sequence[str]) -> str:
    """A go.mod that builds commands of `k8s.io/kubernetes`.

    Kubernetes requires its staging modules at v0.0.0, which exists nowhere: each is replaced by its own release, whose
    version is that of Kubernetes with the leading 1 turned into 0.

    Args:
        version: release without the `v`, e.g. `1.34.4`.
        commands: names under `k8s.io/kubernetes/cmd/`.

    Raises:
        ValueError: the version is not of the form `1.MINOR.PATCH`.
    """
    parts = version.split(".")
    if len(parts) != 3 or parts[0] != "1":
        raise ValueError(f"not a Kubernetes version: {version!r}")
    staging = f"v0.{parts[1]}.{parts[2]}"
    lines = ["module kube", "", "go 1.24.0", "", f"require k8s.io/kubernetes v{version}", ""]
    lines += [f"replace k8s.io/{name} => k8s.io/{name} {staging}" for name in STAGING]
    lines += [f"tool k8s.io/kubernetes/cmd/{name}" for name in commands]
    return "\n".join(lines) + "\n"


def module_go_mod(module: str, version: str, package: str, go: str = "1.26.0") -> str:
    """A go.mod that builds one package of one module whose own go.mod forbids `go install package@version`."""
    return f"module build\n\ngo {go}\n\nrequire {module} v{version}\n\ntool {package}\n"


def kubernetes_ldflags(version: str) -> str:
    """Linker flags that drop debug data and tell the binaries which release they are."""
    _, minor, _ = version.split(".")
    at = "k8s.io/component-base/version"
    return f"-s -w -X {at}.gitVersion=v{version} -X {at}.gitMajor=1 -X {at}.gitMinor={minor}"
