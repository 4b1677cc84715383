"""The TCP connections of one gloo process group, so that they can be closed when torch does not.

`destroy_process_group` closes a gloo group's sockets only once nothing refers to the group any more; the exception of a
failed collective refers to it, through its traceback. Until then peers that wait for this process do not notice that it
has gone. There is no `abort` for gloo either (torch 2.15), so a collective that waits for a vanished node would last
until its timeout. Shutting the connections down does both: gloo sees the end of the stream and fails what is in flight.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_FOLDER = "/proc/self/fd"


@dataclass(frozen=True)
class Connection:
    """A TCP connection of this process: its descriptor and the addresses at its two ends."""

    descriptor: int
    here: tuple[object, ...]
    there: tuple[object, ...]


def open_sockets() -> dict[int, str]:
    """The identity of every open socket of this process, by descriptor. Empty where there is no /proc."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(_FOLDER):
            with contextlib.suppress(OSError):
                target = os.readlink(f"{_FOLDER}/{name}")
                if target.startswith("socket:"):
                    found[int(name)] = target
    return found


def listening_port(before: dict[int, str]) -> int:
    """Port of the TCP socket that listens now and did not in `before`; 0 if there is none."""
    for descriptor, identity in sorted(open_sockets().items()):
        if before.get(descriptor) == identity:
            continue
        with _borrowed(descriptor) as end:
            if end is not None and end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return int(end.getsockname()[1])
    return 0


def connections(before: dict[int, str], ports: Iterable[int]) -> list[Connection]:
    """Connections that are not in `before` and have one of `ports` at either end.

    Both conditions are needed: other threads of this process may have opened connections in the meantime.
    """
    wanted = set(ports) - {0}
    found = []
    for descriptor, identity in open_sockets().items():
        if before.get(descriptor) == identity:
            continue
        with _borrowed(descriptor) as end:
            if end is None:
                continue
            with contextlib.suppress(OSError):  # not connected
                here, there = end.getsockname(), end.getpeername()
                if {here[1], there[1]} & wanted:
                    found.append(Connection(descriptor, here, there))
    return found


def cut(found: Iterable[Connection]) -> None:
    """Shut the connections down; descriptors that meanwhile belong to something else are left alone."""
    for connection in found:
        with _borrowed(connection.descriptor) as end:
            if end is None:
                continue
            with contextlib.suppress(OSError):
                if (end.getsockname(), end.getpeername()) == (connection.here, connection.there):
                    end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket | None]:
    """A TCP socket object on a duplicate of `descriptor`: the owner may close its own any time. None if it is none."""
    try:
        end = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        yield None
        return
    with end:
        tcp = end.family in (socket.AF_INET, socket.AF_INET6) and end.type == socket.SOCK_STREAM
        yield end if tcp else None
