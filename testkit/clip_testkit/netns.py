"""Hosts with addresses of their own on one machine, whose cables can be pulled: network namespaces at a switch.

Needs root and iproute2. Pulling a cable loses packets silently, as in a network that is broken somewhere else: nobody
gets a FIN, a RST or a link that is down.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence

SUBNET = "10.213.17"
_BRIDGE = "br0"


class Network:
    """Some hosts at a switch; use it with `network`.

    Args:
        hosts: how many.
    """

    def __init__(self, hosts: int) -> None:
        self._name = f"ct{uuid.uuid4().hex[:6]}"
        self._hosts = hosts

    def address(self, host: int) -> str:
        """IPv4 address of a host."""
        return f"{SUBNET}.{host + 1}"

    def command(self, host: int, argv: Sequence[str]) -> list[str]:
        """`argv`, run on that host: with its network, on this machine's files."""
        return ["nsenter", f"--net=/var/run/netns/{self._host(host)}", *argv]

    def device(self) -> str:
        """Name of the network device, the same on all hosts."""
        return "eth0"

    def pull(self, host: int) -> None:
        """No packet reaches or leaves the host any more."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "nomaster")

    def plug(self, host: int) -> None:
        """The host is connected again."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "master", _BRIDGE)

    def build(self) -> None:
        """Make the namespaces."""
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", _BRIDGE, "type", "bridge")
        _ip("-n", self._switch, "link", "set", _BRIDGE, "up")
        for host in range(self._hosts):
            name, port = self._host(host), f"port{host}"
            _ip("netns", "add", name)
            _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", self.device(), "netns", name)
            _ip("-n", self._switch, "link", "set", port, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", self.device())
            _ip("-n", name, "link", "set", self.device(), "up")
            self.plug(host)

    def remove(self) -> None:
        """Kill what still runs there and remove the namespaces."""
        for name in (*(self._host(host) for host in range(self._hosts)), self._switch):
            for pid in _pids(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while _pids(name) and time.monotonic() < deadline:
                time.sleep(0.02)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    @property
    def _switch(self) -> str:
        return f"{self._name}-switch"

    def _host(self, host: int) -> str:
        return f"{self._name}-{host}"


@contextlib.contextmanager
def network(hosts: int) -> Iterator[Network]:
    """A network that is gone at the end, with all processes in it."""
    made = Network(hosts)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _pids(namespace: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]
