"""Connections to public addresses only.

A table from the web may name, or redirect to, what only this machine can reach: the cloud's metadata service, a
cluster's API, a router. So a host name is resolved here, every address it has is looked at, and the connection goes to
an address that passed; a name that resolves differently the next time gains nothing by it.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Any

from clip_trainer.data.gather.errors import GatherError

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SERVICES = (  # of clouds, at addresses that older Pythons, or the registries, call global
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("168.63.129.16/32"),
)
_SocketAddress = tuple[Any, ...]  # host, port and, for IPv6, more
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

Allowed = Callable[[str], bool]
"""Whether an address, as text, may be connected to."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, the IPv4 address inside a translated one too."""
    parsed = ipaddress.ip_address(address)
    return all(_is_global(one) for one in (parsed, *_embedded(parsed)))


def is_any(address: str) -> bool:
    """Every address may be connected to: for tables of one's own."""
    return True


def connect(host: str, port: int, timeout: float, allowed: Allowed) -> socket.socket:
    """A TCP connection to an allowed address of a host.

    Args:
        host: a name or a literal address.
        port: its port.
        timeout: seconds, for all of the host's addresses together.
        allowed: `is_public` or `is_any`.

    Raises:
        GatherError: `dns`, `private-address`, `timeout` or `connection`.
    """
    found = _resolve(host, port)
    usable = [entry for entry in found if allowed(str(entry[1][0]))]
    if not usable:
        raise GatherError("private-address", f"{host} is {found[0][1][0]}, not a public address (see --allow-private)")
    deadline = time.monotonic() + timeout
    failure = GatherError("timeout", f"{host} did not accept a connection", transient=True)
    for family, address in usable:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            return _connected(family, address, left)
        except TimeoutError:
            continue
        except OSError as error:
            failure = GatherError("connection", f"{host}: {error.strerror or error}", transient=True)
    raise failure


def _resolve(host: str, port: int) -> list[tuple[int, _SocketAddress]]:
    try:
        answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        again = error.errno == socket.EAI_AGAIN
        raise GatherError("dns", f"{host}: {error.strerror}", transient=again) from error
    except (OSError, UnicodeError) as error:
        raise GatherError("dns", f"{host} is not a host name") from error
    return [(int(family), tuple(address)) for family, _, _, _, address in answers]


def _connected(family: int, address: _SocketAddress, timeout: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_global(address: _Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _SERVICES)


def _embedded(address: _Address) -> tuple[_Address, ...]:
    """IPv4 addresses that traffic to an IPv6 address ends up at."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[_Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(one for one in found if one is not None)
