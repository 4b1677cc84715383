"""HTTP as fetching weights needs it: one request, redirects followed with care, typed errors, no retries of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from clip_trainer.pretrained import httperrors
from clip_trainer.pretrained.settings import FetchSettings
from clipctl.contract.errors import MissingError, SpecError

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 8
_CHUNK = 1 << 20
_AGENT = "clipctl (weights)"


@dataclass
class Answer:
    """A response whose body was not read yet; close it."""

    url: str  # the last one, after redirects
    status: int
    headers: Mapping[str, str]  # of the last response; keys in any case
    hops: tuple[Mapping[str, str], ...]  # headers of the redirects, first to last
    response: BaseHTTPResponse

    def first_header(self, name: str) -> str | None:
        """A header of the first response on the way that has it."""
        return next((headers[name] for headers in (*self.hops, self.headers) if name in headers), None)

    def chunks(self) -> Iterator[bytes]:
        """The body. Raises `TransientError` if it ends early or stalls."""
        import urllib3

        try:
            # What is there, not a full chunk: when a connection stalls, all that arrived must have been handed on.
            while chunk := self.response.read1(_CHUNK, decode_content=False):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise httperrors.of_connection(error, self.url) from error

    def close(self) -> None:
        """Drop the connection; nobody reads the rest."""
        self.response.close()


class HttpClient:
    """Sends requests. Proxies come from the environment, certificates from the system or `SSL_CERT_FILE`."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._pools: dict[str | None, Any] = {}

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, *, leave_host: bool = True
    ) -> Answer:
        """Send one request and follow redirects.

        Args:
            method: GET or HEAD.
            url: where to.
            headers: further headers. `Authorization` goes to the first host only, never along with a redirect.
            leave_host: follow redirects to other hosts; otherwise such a redirect is the answer.

        Raises:
            OfflineError: connections are switched off.
            ClipError: see `httperrors`; only `TransientError` is worth another attempt.
        """
        if self._settings.offline:
            raise offline_error(url)
        sent = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **(headers or {})}
        hops: list[Mapping[str, str]] = []
        while True:
            response = self._send(method, url, sent)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                break
            following = urljoin(url, target)
            if not leave_host and not _same_origin(url, following):
                break
            response.close()
            hops.append(response.headers)
            self._check_redirect(url, following, len(hops))
            if not _same_origin(url, following):
                sent.pop("Authorization", None)
            url = following
        if response.status >= 400:
            response.close()
            raise httperrors.of_status(response.status, response.headers, url)
        return Answer(url, response.status, response.headers, tuple(hops), response)

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        import urllib3

        timeout = urllib3.Timeout(connect=self._settings.connect_timeout, read=self._settings.read_timeout)
        options: dict[str, Any] = {"redirect": False, "retries": False, "preload_content": False, "timeout": timeout}
        try:
            answer: BaseHTTPResponse = self._pool(url).request(method, url, headers=dict(headers), **options)
            return answer
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise httperrors.of_connection(error, url) from error

    def _pool(self, url: str) -> Any:
        """The connection pool for an address: direct, or through the proxy the environment names for it."""
        import urllib.request

        import urllib3

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"{url} is not an http:// or https:// address.")
        bypass = bool(urllib.request.proxy_bypass(parts.hostname))
        proxy = None if bypass else urllib.request.getproxies().get(parts.scheme)
        if proxy not in self._pools:
            self._pools[proxy] = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
        return self._pools[proxy]

    @staticmethod
    def _check_redirect(url: str, following: str, count: int) -> None:
        if count > _MAX_REDIRECTS:
            raise httperrors.of_server(f"{url} redirects in circles")
        if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
            raise httperrors.of_server(f"{url} redirects to an address without encryption")


class OfflineError(MissingError):
    """It is not here, and connections are switched off."""


def offline_error(what: str) -> OfflineError:
    """Why nothing was fetched."""
    return OfflineError(
        f"{what} is not in the cache, and connections are switched off.",
        hint="Unset CLIPCTL_OFFLINE and HF_HUB_OFFLINE, or run `clipctl models pull` where there is a network.",
    )


def _same_origin(first: str, second: str) -> bool:
    one, other = urlsplit(first), urlsplit(second)
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)
