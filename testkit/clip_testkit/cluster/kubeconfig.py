"""Kubeconfig files with everything inside, so that they can be copied."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml


def render(server: str, ca: bytes, certificate: bytes, key: bytes) -> str:
    """The text of a kubeconfig with one cluster, one user and one context.

    Args:
        server: URL of the API server.
        ca: PEM of the authority that signed the server's certificate.
        certificate: PEM of the client certificate.
        key: PEM of its private key.
    """

    def encode(data: bytes) -> str:
        return base64.b64encode(data).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "clip",
        "clusters": [{"name": "clip", "cluster": {"server": server, "certificate-authority-data": encode(ca)}}],
        "users": [
            {
                "name": "clip",
                "user": {"client-certificate-data": encode(certificate), "client-key-data": encode(key)},
            }
        ],
        "contexts": [{"name": "clip", "context": {"cluster": "clip", "user": "clip"}}],
    }
    return yaml.safe_dump(document, sort_keys=False)


def write(path: Path, server: str, pki: Path, identity: str) -> None:
    """Write the kubeconfig of an identity whose PEM files lie in `pki`, readable by root only."""
    text = render(
        server,
        (pki / "ca.crt").read_bytes(),
        (pki / f"{identity}.crt").read_bytes(),
        (pki / f"{identity}.key").read_bytes(),
    )
    path.touch(mode=0o600)
    path.write_text(text)
