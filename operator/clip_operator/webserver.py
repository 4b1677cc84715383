"""The operator's HTTP port: /metrics, /healthz (alive) and /readyz (sees the cluster)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

_TEXT = ("Content-Type", "text/plain; charset=utf-8")


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds; a scraper that stops reading must not hold the port

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Say nothing: probes come every few seconds."""


def serve(port: int, registry: CollectorRegistry, problem: Callable[[], str], host: str = "") -> WSGIServer:
    """Serve in a background thread; `problem` says why the operator is not ready, or nothing.

    Raises:
        OSError: the port is taken.
    """
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        if path == "/healthz":
            start_response("200 OK", [_TEXT])
            return [b"ok\n"]
        if path == "/readyz":
            why = problem()
            start_response("503 Service Unavailable" if why else "200 OK", [_TEXT])
            return [f"{why or 'ok'}\n".encode()]
        start_response("404 Not Found", [_TEXT])
        return [b"only /metrics, /healthz and /readyz\n"]

    server = make_server(host, port, application, handler_class=_QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
