"""A web server on the loopback interface that serves files well or badly: truncated, damaged, stalled, refused.

It speaks as much of the Hugging Face hub's protocol as fetching files needs. Faults of a file are used up one request
at a time, so that a client that tries again gets further.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""What `main` means on this server."""

_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request for a file."""

    status: int = 0  # answer with this status instead of the file
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # drop the connection after so many bytes of the body
    stall_after: int | None = None  # send nothing more after so many bytes, until the server is stopped
    hold: threading.Event | None = None  # send the body only when this is set
    head_too: bool = False  # HEAD requests meet and use up the fault as well


@dataclass
class ServedFile:
    """A file and how it is served."""

    content: bytes
    etag: str | None = None  # as it stands in the header, quotes included
    headers: Mapping[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    ranges: bool = True  # whether ranges are honoured
    redirect: str | None = None  # where else the bytes are


@dataclass(frozen=True)
class Request:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]


class WeightServer:
    """Serves `files`, by path; use it with `serving`."""

    def __init__(self) -> None:
        self.files: dict[str, ServedFile] = {}
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            owner = server

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(poll_interval=0.02), daemon=True)

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def add(self, path: str, content: bytes, **options: Any) -> ServedFile:
        """Serve `content` at `path` with an ETag of its own."""
        options.setdefault("etag", f'"{hashlib.sha256(content).hexdigest()[:20]}"')
        self.files[path] = ServedFile(content, **options)
        return self.files[path]

    def add_hub_file(
        self,
        repository: str,
        name: str,
        content: bytes,
        *,
        large: bool = True,
        commit: str = COMMIT,
        storage: WeightServer | None = None,
        **options: Any,
    ) -> ServedFile:
        """Serve a file as the hub does, under `main` and its commit: large ones by a redirect to `storage`."""
        keeper = storage or self
        sha256 = hashlib.sha256(content).hexdigest()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        headers = {"X-Repo-Commit": commit}
        if large:
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
            served = keeper.add(f"/storage/{sha256}", content, **options)
            entry = ServedFile(b"", '"pointer"', headers, redirect=f"{keeper.url}/storage/{sha256}")
        else:
            entry = served = ServedFile(content, f'"{git}"', headers, **options)
        for revision in ("main", commit):
            self.files[f"/{repository}/resolve/{revision}/{name}"] = entry
        return served

    def add_hub_info(self, repository: str, files: list[str], licence: str | None, commit: str = COMMIT) -> None:
        """Serve the description of a repository."""
        card = {"license": licence} if licence else {}
        raw = {"sha": commit, "siblings": [{"rfilename": name} for name in files], "cardData": card}
        self.add(f"/api/models/{repository}/revision/main", json.dumps(raw).encode())

    def asked(self, path: str, method: str = "GET") -> list[Request]:
        """The requests of one kind for one path."""
        return [request for request in self.requests if (request.path, request.method) == (path, method)]

    def record(self, request: Request, file: ServedFile | None) -> Fault | None:
        """Note a request; the fault it meets, if any."""
        with self._lock:
            self.requests.append(request)
            if file is None or not file.faults:
                return None
            return file.faults.pop(0) if request.method == "GET" or file.faults[0].head_too else None

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End stalled answers, then the server."""
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving() -> Iterator[WeightServer]:
    """A running server."""
    server = WeightServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: WeightServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer()

    def do_GET(self) -> None:
        """Answer with a body."""
        self._answer()

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        file = self.owner.files.get(path)
        fault = self.owner.record(Request(self.command, path, dict(self.headers.items())), file)
        if file is None:
            self._head(404, {"Content-Length": "0"})
        elif fault is not None and fault.status:
            self._head(fault.status, {"Content-Length": "0", **fault.headers})
        elif file.redirect is not None:
            self._head(302, {"Content-Length": "0", "Location": file.redirect, **file.headers}, file.etag)
        else:
            self._send(file, fault or Fault())

    def _send(self, file: ServedFile, fault: Fault) -> None:
        start = self._start(file)
        if start > len(file.content):
            self._head(416, {"Content-Length": "0"})
            return
        body, headers = file.content[start:], {"Content-Length": str(len(file.content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
        self._head(206 if start else 200, {**headers, **file.headers}, file.etag)
        if self.command == "HEAD":
            return
        if fault.hold is not None:
            fault.hold.wait()
        limit = fault.cut_after if fault.cut_after is not None else fault.stall_after
        self.wfile.write(body if limit is None else body[:limit])
        self.wfile.flush()
        if fault.stall_after is not None:
            self.owner.stopped.wait()
        if limit is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _start(self, file: ServedFile) -> int:
        """Offset that is asked for, if it is to be honoured."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        honoured = file.ranges and match is not None and condition in (None, file.etag)
        return int(match.group(1)) if match is not None and honoured else 0

    def _head(self, status: int, headers: Mapping[str, str], etag: str | None = None) -> None:
        self.send_response(status)
        for name, value in {**({"ETag": etag} if etag else {}), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
