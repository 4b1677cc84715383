"""A server on the loopback interface that answers like an object store, and badly where a rule says so.

    with fault_server(objects={"/bucket/a.tar": content}) as server:      # bytes of its own
    with fault_server(upstream="http://127.0.0.1:5000") as server:         # in front of moto or another server
        server.add(reset_after(64 << 10))                                  # every body breaks there
        server.add(refuse(503, retry_after=1), times=3, methods=("GET",))  # three requests are refused

Chance is seeded; every request is logged.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import http.server
import random
import re
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from clip_testkit.httpfaults import Answer, Fault, Request

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_HOP_BY_HOP = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})
_PIECE = 64 << 10


@dataclass
class Rule:
    """When a fault happens."""

    fault: Fault
    times: float  # how often at most
    methods: tuple[str, ...]
    path: re.Pattern[str]
    probability: float

    def applies(self, request: Request, chance: random.Random) -> bool:
        """Whether this request meets the fault; uses up one of the times."""
        meant = request.method in self.methods and self.path.search(request.path) is not None
        if not meant or self.times <= 0 or chance.random() >= self.probability:
            return False
        self.times -= 1
        return True


class FaultServer:
    """The server; use it with `fault_server`.

    Attributes:
        objects: content by path, if there is no upstream.
        ranges: whether its own objects are served in ranges.
        requests: all that arrived, in order.
        connections: how many were made.
        sent: bytes of bodies that were sent.
    """

    def __init__(self, objects: dict[str, bytes], upstream: str | None, seed: int, tls: ssl.SSLContext | None) -> None:
        self.objects, self.ranges = objects, True
        self.requests: list[Request] = []
        self.connections = self.sent = 0
        self.stopped = threading.Event()
        self._fetch: Callable[[Request], Answer] = self._own if upstream is None else _forwarded_to(upstream)
        self._rules: list[Rule] = []
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(poll_interval=0.02), daemon=True)

    @property
    def url(self) -> str:
        """Base address."""
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}"

    def add(
        self,
        fault: Fault,
        *,
        times: float = float("inf"),
        methods: tuple[str, ...] = ("GET",),
        path: str = "",
        probability: float = 1.0,
    ) -> None:
        """From now on, requests with these methods whose path holds the pattern meet the fault."""
        self._rules.append(Rule(fault, times, methods, re.compile(path), probability))

    def heal(self) -> None:
        """No more faults."""
        self._rules.clear()

    def answer(self, request: Request) -> Answer:
        """The answer to a request, faults included."""
        answer = self._fetch(request)
        with self._lock:
            self.requests.append(request)
            met = [rule.fault for rule in self._rules if rule.applies(request, self._chance)]
        for fault in met:
            answer = fault(request, answer, self._chance)
        return answer

    def count(self, *, sent: int = 0, connections: int = 0) -> None:
        """Note what happened."""
        with self._lock:
            self.sent += sent
            self.connections += connections

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End stalled answers, then the server."""
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _own(self, request: Request) -> Answer:
        """One of the objects, as S3 would serve it."""
        content = self.objects.get(urlsplit(request.path).path)
        if content is None:
            return Answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        if request.headers.get("if-match", etag) != etag:
            return Answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
        headers = {"ETag": etag, "Content-Type": "binary/octet-stream"}
        match = _RANGE.fullmatch(request.headers.get("range", ""))
        if match is None or not self.ranges:
            return Answer(200, headers, content)
        start, end = int(match.group(1)), min(int(match.group(2) or len(content)), len(content) - 1)
        if start >= len(content):
            return Answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return Answer(206, headers, content[start : end + 1])


@contextlib.contextmanager
def fault_server(
    objects: dict[str, bytes] | None = None,
    *,
    upstream: str | None = None,
    seed: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[FaultServer]:
    """A running server, in front of objects of its own or of another server."""
    server = FaultServer(objects if objects is not None else {}, upstream, seed, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _forwarded_to(upstream: str) -> Callable[[Request], Answer]:
    host = urlsplit(upstream).netloc

    def fetch(request: Request) -> Answer:
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            connection.request(request.method, request.path, request.body, dict(request.headers))
            response = connection.getresponse()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
            length = response.getheader("Content-Length") if request.method == "HEAD" else None
            return Answer(response.status, headers, response.read(), int(length) if length else None)
        finally:
            connection.close()

    return fetch


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: FaultServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """A new connection."""
        self.owner.count(connections=1)
        super().setup()

    def handle_one_request(self) -> None:
        """Any method is answered in the same way."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.owner.answer(Request(self.command, self.path, headers, body))
        self._send(answer if self.command != "HEAD" else _head_only(answer))

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
        self.end_headers()
        good = answer.body if answer.stop_after is None else answer.body[: answer.stop_after]
        for start in range(0, len(good), _PIECE):
            piece = good[start : start + _PIECE]
            self.owner.count(sent=len(piece))  # before: who has it may look before this thread gets its next turn
            self.wfile.write(piece)
            if answer.rate:
                time.sleep(len(piece) / answer.rate)
        self.wfile.flush()
        if answer.stop_after is not None:
            self._stop(answer.ending)

    def _stop(self, ending: str) -> None:
        self.close_connection = True
        if ending == "stall":
            self.owner.stopped.wait()
        elif ending == "reset":
            self._drained()
            # With this linger time, closing sends RST; the handler's own files must not hold the socket open.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()

    def _drained(self) -> None:
        """Wait until the client's kernel has what was sent: RST makes this side drop what is still on its way."""
        while struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)))[0]:
            time.sleep(0.001)


def _head_only(answer: Answer) -> Answer:
    length = len(answer.body) if answer.length is None else answer.length
    return replace(answer, body=b"", length=length, stop_after=None)
