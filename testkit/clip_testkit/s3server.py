"""Moto's S3 on the loopback interface, and an environment in which nothing but it is known of AWS."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

_ANYBODY = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A running server; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_only(monkeypatch: pytest.MonkeyPatch, endpoint: str, nowhere: Path) -> None:
    """Point the AWS settings at a server, with keys, and away from the developer's own.

    Args:
        monkeypatch: of the test.
        endpoint: address of the server.
        nowhere: a path at which there is nothing.
    """
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere))


def ask(endpoint: str, method: str, path: str, body: bytes = b"") -> int:
    """Send a request that nobody signs (moto does not mind); the status of the answer."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    try:
        connection.request(
            method, quote(path), body, {"Authorization": "AWS4-HMAC-SHA256 Credential=test/x/us-east-1/s3/x"}
        )
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def create_bucket(endpoint: str, name: str) -> None:
    """Make a bucket."""
    status = ask(endpoint, "PUT", f"/{name}")
    assert status == 200, status


def delete_object(endpoint: str, path: str) -> None:
    """Delete `/bucket/key`."""
    status = ask(endpoint, "DELETE", path)
    assert status == 204, status
