"""A small Kubernetes API server over HTTP, for tests of everything that talks to one.

Real semantics where our programs depend on them (resource versions, 409, watch with 410, merge patch,
server-side apply without field ownership, label selectors, discovery, access reviews), and an interceptor that can
make any call fail.

    with FakeApiServer() as server:
        server.fail_next(FakeApiError(429, "TooManyRequests", "slow down", retry_after=1), verb="list")
        ... talk to server.url ...
        assert server.calls[-1].verb == "patch"
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from clip_testkit.fakeapi_errors import FakeApiError, forbidden, gone
from clip_testkit.fakeapi_objects import FakeObjects, Object, Place

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Call:
    """One request, as access control sees it."""

    verb: str
    place: Place
    namespace: str
    name: str
    subresource: str = ""
    query: dict[str, str] = field(default_factory=dict, compare=False)
    body: Any = field(default=None, compare=False)

    @property
    def plural(self) -> str:
        """The resource, for example `pods`."""
        return self.place[1]


Interceptor = Callable[[Call], FakeApiError | None]
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SELF_REVIEW = "selfsubjectaccessreviews"


class FakeApiServer:
    """The server; `objects` may be changed by tests at any time.

    Args:
        objects: shared state; a fresh one by default.
    """

    def __init__(self, objects: FakeObjects | None = None) -> None:
        self.objects = objects or FakeObjects()
        self.calls: list[Call] = []
        self.logs: dict[tuple[str, str], str] = {}
        self.denied: set[tuple[str, str]] = set()
        """Verb and plural that access control refuses, for example `("create", "pytorchjobs")`."""
        self._interceptors: list[Interceptor] = []
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.fake = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.closing = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> FakeApiServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.closing = True
        with self.objects.changed:
            self.objects.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def kubeconfig(self, namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig for it."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
            "users": [{"name": "fake", "user": {"token": "fake-token"}}],
        }

    def intercept(self, interceptor: Interceptor) -> None:
        """Ask `interceptor` before every call; it returns an error to answer with, or None, or blocks for a while."""
        self._interceptors.append(interceptor)

    def fail_next(self, error: FakeApiError, *, verb: str = "", plural: str = "", times: int = 1) -> None:
        """Answer the next `times` matching calls with `error`."""
        left = [error] * times

        def interceptor(call: Call) -> FakeApiError | None:
            if verb in ("", call.verb) and plural in ("", call.plural):
                with contextlib.suppress(IndexError):
                    return left.pop()  # one step: two calls at the same moment must not meet the same time
            return None

        self.intercept(interceptor)

    def handle(self, call: Call) -> Any:
        """Answer one call; raises `FakeApiError`."""
        self.calls.append(call)
        if (call.verb, call.plural) in self.denied:
            raise forbidden(call.verb, call.plural)
        for interceptor in self._interceptors:
            error = interceptor(call)
            if error is not None:
                raise error
        if call.plural == _SELF_REVIEW:
            return self._review(call.body)
        if call.subresource == "log":
            return self._log(call)
        return self._objects(call)

    def _objects(self, call: Call) -> Any:
        place, namespace, name = call.place, call.namespace, call.name
        match call.verb:
            case "list":
                return self._listing(call)
            case "get":
                return self.objects.get(place, namespace, name)
            case "create":
                return call.body if "dryRun" in call.query else self.objects.create(place, namespace, call.body)
            case "update":
                return self.objects.update(place, namespace, name, call.body)
            case "patch":
                return self.objects.merge(place, namespace, name, call.body)
            case "apply":
                dry_run = "dryRun" in call.query
                return self.objects.apply(place, namespace, name, call.body, dry_run=dry_run)
            case "delete":
                uid = ((call.body or {}).get("preconditions") or {}).get("uid")
                return self.objects.delete(place, namespace, name, uid)
            case _:
                raise FakeApiError(405, "MethodNotAllowed", f"{call.verb} is not supported")

    def _listing(self, call: Call) -> Object:
        """A list, in pages if the client asks for pages."""
        with self.objects.changed:  # a watch from this version must miss nothing that is not in this listing
            items = self.objects.list(call.place, call.namespace, call.query.get("labelSelector", ""))
            version = str(self.objects.version)
        start = int(call.query.get("continue", "0"))
        limit = int(call.query.get("limit", "0")) or len(items) or 1
        metadata = {"resourceVersion": version}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        kind = self.objects.types[call.place].kind
        return {
            "apiVersion": call.place[0],
            "kind": f"{kind}List",
            "metadata": metadata,
            "items": items[start : start + limit],
        }

    def _review(self, body: Object) -> Object:
        wanted = body["spec"].get("resourceAttributes") or {}
        allowed = (wanted.get("verb"), wanted.get("resource")) not in self.denied
        return {**body, "status": {"allowed": allowed, **({} if allowed else {"reason": "denied by the test"})}}

    def _log(self, call: Call) -> str:
        self.objects.get(call.place, call.namespace, call.name)
        return self.logs.get((call.namespace, call.name), "")


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeApiServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: without it every answer waits 40 ms
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(length)
        body = yaml.safe_load(data) if data else None
        try:
            discovered = discovery(self.server.fake.objects, urlsplit(self.path).path)
            if self.command == "GET" and discovered is not None:
                self._send(200, discovered)
                return
            call = self._call(body)
            if call.verb == "watch":
                self._watch(call)
                return
            answer = self.server.fake.handle(call)
            self._send(201 if call.verb == "create" else 200, answer)
        except FakeApiError as error:
            self._send(error.code, error.status(), error.retry_after)

    def _call(self, body: Any) -> Call:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        segments = [segment for segment in parts.path.split("/") if segment]
        version, rest = (
            ("/".join(segments[1:3]), segments[3:]) if segments[0] == "apis" else (segments[1], segments[2:])
        )
        namespace = ""
        if len(rest) >= 3 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "", "")[:3]
        verb = _VERBS.get(self.command) or ("get" if name else "watch" if query.get("watch") == "true" else "list")
        if verb == "patch" and "apply-patch" in self.headers.get("Content-Type", ""):
            verb = "apply"
        return Call(verb, (version, plural), namespace, name, subresource, query, body)

    def _send(self, code: int, answer: Any, retry_after: int | None = None) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, call: Call) -> None:
        fake, objects = self.server.fake, self.server.fake.objects
        fake.calls.append(call)
        for interceptor in fake._interceptors:
            error = interceptor(call)
            if error is not None:
                raise error
        if ("watch", call.plural) in fake.denied:
            raise forbidden("watch", call.plural)
        since = int(call.query.get("resourceVersion") or objects.version)
        list(objects.events_after(call.place, call.namespace, "", since))  # 404 or 410 before the stream begins
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._stream(call, since)

    def _stream(self, call: Call, since: int) -> None:
        fake, objects = self.server.fake, self.server.fake.objects
        seconds = float(call.query.get("timeoutSeconds", "300"))
        waits = max(int(seconds / POLL_SECONDS), 1)
        selector = call.query.get("labelSelector", "")
        while waits > 0 and not fake.closing:
            try:
                events = list(objects.events_after(call.place, call.namespace, selector, since))
            except FakeApiError:
                self._chunk({"type": "ERROR", "object": gone(since).status()})
                break
            for version, event in events:
                since = version
                self._chunk(event)
            with objects.changed:
                if objects.version <= since or not events:
                    objects.changed.wait(POLL_SECONDS)
            waits -= 1
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()


def discovery(objects: FakeObjects, path: str) -> Object | None:
    """The answer to `/version`, `/api`, `/apis`, `/api/v1` and `/apis/<group>/<version>`; None for any other path."""
    versions = sorted({api_version for api_version, _ in objects.types})
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0-fake"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version for version in versions if "/" in version]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(version) for version in groups]}
    prefix, _, version = path.removeprefix("/").partition("/")
    if prefix not in ("api", "apis") or version not in versions:
        return None
    kinds = [kind for kind in objects.types.values() if kind.api_version == version]
    resources = [
        {
            "name": k.plural,
            "singularName": k.kind.lower(),
            "kind": k.kind,
            "namespaced": k.namespaced,
            "verbs": list(k.verbs),
        }
        for k in kinds
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _group(version: str) -> Object:
    entry = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [entry], "preferredVersion": entry}
