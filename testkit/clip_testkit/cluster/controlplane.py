"""Command lines of etcd, the API server, the controller-manager and the scheduler."""

from __future__ import annotations

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import Argument

ETCD_URL = "http://127.0.0.1:2379"


def etcd(settings: Settings) -> list[Argument]:
    """An etcd on loopback inside the namespace; without fsync, since its state need not survive a crash."""
    return [
        settings.binary("etcd", pinned.ETCD),
        f"--data-dir={settings.state}/etcd",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(settings: Settings) -> list[Argument]:
    """The API server with Node and RBAC authorization; PodSecurity admission is on by default."""
    pki = settings.state / "pki"
    return [
        settings.binary("kube-apiserver", pinned.KUBERNETES),
        f"--etcd-servers={ETCD_URL}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={pinned.NODE_IP}",
        f"--secure-port={pinned.API_PORT}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        "--authorization-mode=Node,RBAC",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={pinned.SERVICE_CIDR}",
        "--allow-privileged",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--enable-admission-plugins=NodeRestriction",
    ]


def controller_manager(settings: Settings) -> list[Argument]:
    """The controller-manager; notices a lost node after 16 s instead of 40 so that tests of it are short."""
    pki = settings.state / "pki"
    return [
        settings.binary("kube-controller-manager", pinned.KUBERNETES),
        f"--kubeconfig={settings.state}/kcm.kubeconfig",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=16s",
    ]


def scheduler(settings: Settings) -> list[Argument]:
    """The scheduler, alone and so without leader election."""
    return [
        settings.binary("kube-scheduler", pinned.KUBERNETES),
        f"--kubeconfig={settings.state}/scheduler.kubeconfig",
        "--leader-elect=false",
    ]
