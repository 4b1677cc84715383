"""The proxy that the environment names for an address (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from clipctl.contract.errors import SpecError


class Proxy(NamedTuple):
    """Where requests are sent instead."""

    host: str
    port: int
    headers: Mapping[str, str]  # for the proxy itself


def proxy_for(scheme: str, host: str) -> Proxy | None:
    """The proxy for a host, or None if it is reached directly.

    Raises:
        SpecError: the environment holds no address of a proxy.
    """
    import urllib.request

    address = urllib.request.getproxies().get(scheme)
    if not address or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port or 3128
    except ValueError:
        port = 0
    if not parts.hostname or not port or parts.scheme != "http":
        name = f"{scheme.upper()}_PROXY"
        raise SpecError(f"{name} is not the address of a proxy.", hint="Write it as http://host:port.")
    return Proxy(parts.hostname, port, basic_authorization(parts.username, parts.password, "Proxy-Authorization"))


def basic_authorization(user: str | None, password: str | None, name: str = "Authorization") -> dict[str, str]:
    """The header for the user and password of an address (percent-encoded as they are there); none without a user."""
    if not user:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {name: f"Basic {base64.b64encode(pair).decode()}"}
