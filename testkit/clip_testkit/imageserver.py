"""A web server on the loopback interface as bad as the web: it drips, lies about lengths, hangs up and never ends.

Pages are served by path, whatever the host is called. The server counts the requests that it has at the same time.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_DRIP_SECONDS = 0.02


@dataclass(frozen=True)
class Page:
    """An answer."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    send: Callable[[_Handler, Page], None] | None = None  # how to misbehave; None to answer well
    hold: float = 0.0  # seconds that the request is kept before the answer
    before: tuple[Page, ...] = ()  # the answers to the first requests


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    path: str
    headers: Mapping[str, str]


class ImageServer:
    """Serves `pages`; use it with `serving_images`.

    Attributes:
        pages: answers by path; others are 404.
        asked: the requests, in order.
        most_at_once: the largest number of requests that waited for an answer at the same time.
        connections: how many were accepted.
    """

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[Asked] = []
        self.most_at_once = self.connections = 0
        self.on_request: Callable[[int], None] = lambda number: None
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._now = 0
        owner = self

        class Handler(_Handler):
            server_of_images = owner

        self._http = _Server((address, 0), Handler)
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(poll_interval=0.02), daemon=True)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://{address}:{self._http.server_address[1]}"

    def paths(self) -> Counter[str]:
        """How often each path was asked for."""
        with self._lock:
            return Counter(request.path for request in self.asked)

    def forget(self) -> None:
        """Start counting again."""
        with self._lock:
            self.asked, self.most_at_once = [], 0

    def begin(self, request: Asked) -> Page:
        """Count a request; its answer."""
        with self._lock:
            earlier = sum(other.path == request.path for other in self.asked)
            self.asked.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            number = len(self.asked)
        self.on_request(number)
        page = self.pages.get(request.path, Page(b"nothing here", 404))
        return page.before[earlier] if earlier < len(page.before) else page

    def end(self) -> None:
        """A request is about to be answered."""
        with self._lock:
            self._now -= 1

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End endless answers, then the server."""
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving_images(address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[ImageServer]:
    """A running server on an address of 127.0.0.0/8."""
    server = ImageServer(address, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def truncated(handler: _Handler, page: Page) -> None:
    """Promise the whole body, send half of it, and hang up."""
    handler.head(page.status, {"Content-Length": str(len(page.body)), **page.headers})
    handler.wfile.write(page.body[: len(page.body) // 2])
    handler.close_connection = True


def cut_chunk(handler: _Handler, page: Page) -> None:
    """Hang up in the middle of a chunk."""
    handler.head(page.status, {"Transfer-Encoding": "chunked", **page.headers})
    handler.wfile.write(b"%x\r\n%b" % (len(page.body), page.body[:-1]))
    handler.close_connection = True


def reset(handler: _Handler, page: Page) -> None:
    """Break the connection without an answer."""
    # Lingering for no time makes the kernel send a reset instead of an orderly end.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def drip(handler: _Handler, page: Page) -> None:
    """Send the body a byte at a time, for ever never late enough for a read timeout."""
    handler.head(page.status, {"Content-Length": "50000", **page.headers})
    handler.send_slowly(page.body[:1])


def drip_head(handler: _Handler, page: Page) -> None:
    """Send a header a byte at a time, without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    handler.send_slowly(b"x")


def babble(handler: _Handler, page: Page) -> None:
    """Answer with the body alone, as if HTTP did not exist."""
    handler.wfile.write(page.body)
    handler.close_connection = True


def endless(handler: _Handler, page: Page) -> None:
    """Send the body over and over, with no length."""
    handler.head(page.status, {"Connection": "close", **page.headers})
    handler.close_connection = True
    block = page.body * (1 + 65536 // max(1, len(page.body)))
    while not handler.server_of_images.stopped.is_set():
        handler.wfile.write(block)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server_of_images: ImageServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Count a connection."""
        self.server_of_images.connections += 1
        super().setup()

    def do_GET(self) -> None:
        """Answer."""
        server = self.server_of_images
        page = server.begin(Asked(self.path, dict(self.headers.items())))
        if page.hold:
            server.stopped.wait(page.hold)
        server.end()  # before the answer: who has it may ask again before this thread gets its next turn
        (page.send or _well)(self, page)
        if not self.wfile.closed and page.send is not reset:
            self.wfile.flush()

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send everything before the body."""
        self.send_response(status)
        for name, value in headers.items():
            # A line break in a value makes several headers of the same name.
            for part in value.split("\n"):
                self.send_header(name, part)
        self.end_headers()

    def send_slowly(self, piece: bytes) -> None:
        """Send something again and again until the server stops or the client is gone."""
        while not self.server_of_images.stopped.wait(_DRIP_SECONDS):
            self.wfile.write(piece)
            self.wfile.flush()


def _well(handler: _Handler, page: Page) -> None:
    handler.head(page.status, {"Content-Length": str(len(page.body)), **page.headers})
    handler.wfile.write(page.body)
