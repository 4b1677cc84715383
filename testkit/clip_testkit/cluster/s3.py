"""An S3 server beside the cluster: moto's, in the namespace for pods and relayed for tests on the host."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import Argument


@dataclass(frozen=True)
class S3Endpoint:
    """How to reach the S3 server.

    Attributes:
        in_cluster: URL for pods.
        on_host: URL for tests on the host.
        access_key: access key id; moto accepts any, so that these are no secret.
        secret_key: secret access key.
        region: region to sign for.
    """

    in_cluster: str
    on_host: str
    access_key: str = "clip-test"
    secret_key: str = "clip-test-secret"
    region: str = "us-east-1"

    def environment(self, *, in_cluster: bool) -> dict[str, str]:
        """Variables that make AWS SDKs and s3fs use this server."""
        return {
            "AWS_ENDPOINT_URL": self.in_cluster if in_cluster else self.on_host,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
        }


def endpoint(settings: Settings) -> S3Endpoint:
    """The endpoint of the cluster with these settings."""
    return S3Endpoint(
        in_cluster=f"http://{pinned.NODE_IP}:{pinned.S3_PORT}",
        on_host=f"http://127.0.0.1:{settings.host_s3_port}",
    )


def server() -> list[Argument]:
    """Command line of the server, run inside the namespace. It keeps objects in memory: a new cluster starts empty."""
    return [sys.executable, "-m", "moto.server", "-H", pinned.NODE_IP, "-p", str(pinned.S3_PORT)]
