"""Moto's S3 on the loopback interface, and an environment in which nothing but it is known of AWS."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

_ANYBODY = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


@contextlib.contextmanager
def s3_server(wrap: Callable[[Application], Application] = lambda application: application) -> Iterator[str]:
    """A running server; its address. What it stores, all servers of this process have.

    Args:
        wrap: makes another application of moto's, as `without_conditions`.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    running = server._server
    assert running is not None
    running.app = wrap(running.app)
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def one_at_a_time(application: Application) -> Application:
    """Moto checks a condition and stores the object in two steps; S3 does it in one."""
    lock = threading.Lock()

    def serialised(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return list(application(environ, start_response))

    return serialised


def without_conditions(application: Application) -> Application:
    """A service that does not know `If-None-Match` and `If-Match` of a PUT, and does not say so."""

    def ignoring(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        return application(environ, start_response)

    return one_at_a_time(ignoring)


def refusing_conditions(application: Application) -> Application:
    """A service that answers a conditional PUT with 501."""

    def refusing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT" or not {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys():
            return application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
        start_response("501 Not Implemented", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    return one_at_a_time(refusing)


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
