"""Requests to a web server or object store: authorised, redirected with care, repeated within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from http.client import HTTPMessage
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, urljoin, urlsplit

from clip_trainer.data.storage.http_connections import ConnectionPool
from clip_trainer.data.storage.http_errors import ExpiredCredentialsError, of_status, shown_url
from clip_trainer.data.storage.http_response import Response
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import SourceCounters
from clipctl.contract.errors import SpecError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 8
_MAX_DOCUMENT = 64 << 10  # bytes of an error document
_MAX_BODY = 2 << 30  # bytes of a whole object in memory
_AGENT = "clipctl (data)"


class Request(NamedTuple):
    """What is asked for."""

    method: str
    url: SplitResult
    what: str  # names the object in errors
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Proof(NamedTuple):
    """Who is asking: headers to send along, and what they were made from."""

    headers: Mapping[str, str] = {}
    keys: object = None


class Authorizer(Protocol):
    """Proves to one server who is asking."""

    follows_redirects: bool

    def prove(self, request: Request) -> Proof:
        """The proof to send along.

        Raises:
            PermissionDeniedError: there are no credentials, or only expired ones.
        """
        ...

    def renew(self, refused: Proof) -> None:
        """Get other credentials than those that were refused because they have expired.

        Raises:
            PermissionDeniedError: there are no others.
        """
        ...


class HttpClient:
    """Sends requests; safe to share between threads.

    Args:
        pool: the connections.
        authorizer: see `Authorizer`.
        retry: how `call` repeats what failed.
        counters: told about every request.
    """

    def __init__(
        self, pool: ConnectionPool, authorizer: Authorizer, retry: RetryPolicy, counters: SourceCounters
    ) -> None:
        self.retry, self.counters = retry, counters
        self._pool, self._authorizer = pool, authorizer

    def call(self, request: Request) -> bytes:
        """Send a request until it is answered, and read the whole answer.

        Raises:
            UnavailableError: no usable answer within the bounds of the retry policy.
            ClipError: what the server said instead of success; see `http_errors.of_status`.
        """

        def attempt() -> bytes:
            with self.open(request) as response:
                return response.read_rest(_MAX_BODY + 1)

        body = self.retry.run(attempt, lambda: self.counters.add(retries=1))
        if len(body) > _MAX_BODY:
            raise SpecError(f"{request.what} is too large to be held in memory.", hint="Check the location.")
        return body

    def headers(self, request: Request) -> HTTPMessage:
        """Send a request until it is answered; the headers, the body unread. Raises as `call`."""

        def attempt() -> HTTPMessage:
            with self.open(request) as response:
                return response.headers

        return self.retry.run(attempt, lambda: self.counters.add(retries=1))

    @contextlib.contextmanager
    def open(self, request: Request) -> Iterator[Response]:
        """Send a request once; the answer is a success, its body unread.

        Expired credentials are renewed once. Raises what `call` does, at the first failure.
        """
        response = self._authorized(request)
        try:
            yield response
        finally:
            response.release()

    def _authorized(self, request: Request) -> Response:
        proof = self._authorizer.prove(request)
        try:
            return self._redirected(request, proof)
        except ExpiredCredentialsError:
            if proof.keys is None:
                raise
            self._authorizer.renew(proof)
        return self._redirected(request, self._authorizer.prove(request))

    def _redirected(self, request: Request, proof: Proof) -> Response:
        """The success at the end of all redirects. The proof of who is asking goes to the first server only."""
        url, what = request.url, request.what
        for _ in range(_MAX_REDIRECTS):
            mine = proof.headers if _same_origin(url, request.url) else {}
            headers = {"User-Agent": _AGENT, **request.headers, **mine}
            self.counters.add(requests=1)
            response = self._pool.request(request.method, url, headers, what, request.body)
            if response.status < 300:
                return response
            try:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or not target or not self._authorizer.follows_redirects:
                    raise of_status(response.status, response.headers, response.read_rest(_MAX_DOCUMENT), what)
            finally:
                response.release()
            url = _following(url, target, what)
        raise SpecError(f"{what} redirects in circles.", hint="Give the address that it should lead to.")


def _following(url: SplitResult, target: str, what: str) -> SplitResult:
    following = urlsplit(urljoin(url.geturl(), target))
    if url.scheme == "https" and following.scheme != "https":
        place = shown_url(following.geturl())
        raise SpecError(f"{what} redirects to {place}, without encryption.", hint="Give that address if you trust it.")
    return following


def _same_origin(one: SplitResult, other: SplitResult) -> bool:
    return (one.scheme, one.netloc) == (other.scheme, other.netloc)
